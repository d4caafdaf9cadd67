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
  const swatch = document.querySelector("#swatch").content.firstChild.cloneNode(true);
  swatch.firstChild.setAttribute("fill", colour);
  return swatch;
}
