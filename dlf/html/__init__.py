"""Pages: one HTML file from what a command found; plain numbers in, text out.

    charts.py     curves and other figures as SVG, with axes, legends and descriptions
    pixels.py     arrays as PNG pictures inside of the page
    page.py       the report, by the templates page.html, page.css and page.js
    walk.py       the steps of `dlf explain`, by walk.html, walk.css and walk.js

A page asks no other host for anything, and says so to the browser (its Content-Security-Policy); what comes from
users is escaped.
"""

from dlf.html.page import Content, Mistake, render

__all__ = ["Content", "Mistake", "render"]
