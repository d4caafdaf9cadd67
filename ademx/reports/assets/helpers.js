// Small functions that the other scripts share.
//
// The report's scripts are joined into one, in the order that ademx/reports/page.py gives. Everything
// that comes from data reaches the page as text content or as a value, never as HTML.
"use strict";

/** Return a new element; properties that it does not know become attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function readData(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

/** Return percent with one decimal, "–" for what is not known. */
function percent(value) {
  return value === null || value === undefined ? "–" : `${value.toFixed(1)} %`;
}

/** Return a whole number with thin spaces between its thousands. */
function whole(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function plural(word, count) {
  return count === 1 ? word : `${word}s`;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

function makeSwatch(colour) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const rect = document.createElementNS(space, "rect");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("viewBox", "0 0 10 10");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, value] of Object.entries({ width: 10, height: 10, rx: 2, fill: colour })) {
    rect.setAttribute(name, value);
  }
  svg.append(rect);
  return svg;
}
