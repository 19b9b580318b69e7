"""The report: one HTML file from what a run holds; plain numbers in, text out.

    charts.py     curves and other figures as SVG, with axes, legends and descriptions
    pixels.py     arrays as PNG pictures inside of the page
    page.py       everything together, by the templates page.html, page.css and page.js

The page asks no other host for anything, and says so to the browser (its Content-Security-Policy); what comes from
users is escaped.
"""

from dlf.html.page import Content, Mistake, render

__all__ = ["Content", "Mistake", "render"]
