"use strict";
// one step at a time; without this script all of them stand below each other
const steps = [...document.querySelectorAll(".step")];
const links = [...document.querySelectorAll(".steps a")];
const [back, on, all, where] = ["back", "on", "all", "where"].map((name) => document.getElementById(name));
const nodes = [...document.querySelectorAll(".node")], edges = [...document.querySelectorAll(".edge")];
let at = 0;
function show(n, remember = true) {
  at = Math.max(0, Math.min(steps.length - 1, n));
  const { column, seen, blamed } = Object.fromEntries(Object.entries(steps[at].dataset).map(([key, value]) => [key, Number(value)]));
  steps.forEach((step, k) => step.classList.toggle("current", k === at));
  links.forEach((link, k) => k === at ? link.setAttribute("aria-current", "step") : link.removeAttribute("aria-current"));
  for (const part of [...nodes, ...edges]) part.classList.toggle("here", Number(part.dataset.column) === column);
  for (const node of nodes) {
    const back_there = Number(node.dataset.column) >= blamed;
    node.classList.toggle("blamed", back_there);
    node.classList.toggle("unseen", Number(node.dataset.column) > seen);
    node.querySelector(".value").textContent = back_there ? node.dataset.gradient : node.dataset.value;
  }
  back.disabled = at === 0;
  on.disabled = at === steps.length - 1;
  where.textContent = `${at + 1} of ${steps.length}`;
  if (remember) history.replaceState(null, "", `#step-${at + 1}`);
  if (!document.body.classList.contains("walking")) steps[at].scrollIntoView();
}
function number(hash) {
  const found = /^#step-(\d+)$/.exec(hash);
  return found ? Number(found[1]) - 1 : 0;
}
document.querySelector(".walk").hidden = false;
document.body.classList.add("walking");
back.addEventListener("click", () => show(at - 1));
on.addEventListener("click", () => show(at + 1));
all.addEventListener("click", () => {
  const walking = document.body.classList.toggle("walking");
  all.setAttribute("aria-pressed", String(!walking));
});
links.forEach((link, n) => link.addEventListener("click", (event) => { event.preventDefault(); show(n); }));
addEventListener("hashchange", () => show(number(location.hash), false));
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest(".scroll")) return;
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(to);
});
show(number(location.hash), false);
