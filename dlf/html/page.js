"use strict";
// values under the pointer: the nearest point of a chart
for (const figure of document.querySelectorAll("[data-chart]")) {
  const { name: over, x, left, series } = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg[viewBox]"), cursor = svg.querySelector(".cursor");
  const output = figure.querySelector("figcaption output");
  const number = (value) => value === null ? "–" : Number(value.toPrecision(4)).toString();
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let near = 0;
    left.forEach((place, n) => { if (Math.abs(place - at) < Math.abs(left[near] - at)) near = n; });
    cursor.setAttribute("x1", left[near]);
    cursor.setAttribute("x2", left[near]);
    cursor.style.visibility = "visible";
    output.textContent = `${over} ${x[near]}: ` + series.map(({ name, y }) => `${name} ${number(y[near])}`).join(", ");
  });
  svg.addEventListener("pointerleave", () => { cursor.style.visibility = "hidden"; output.textContent = ""; });
}
// the plane at another epoch
const slider = document.getElementById("epoch");
if (slider) {
  const { epochs, frames } = JSON.parse(document.getElementById("frames").textContent);
  const image = document.querySelector("#plane image"), shown = document.getElementById("shown");
  slider.addEventListener("input", () => {
    image.setAttribute("href", frames[slider.value]);
    shown.textContent = epochs[slider.value];
  });
}
