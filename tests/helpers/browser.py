"""Inspect the page of experiments in a browser."""

import io

import numpy as np
from PIL import Image

NAMES = """() => [...document.querySelectorAll("#runs tbody:not([hidden]) .group .name > :first-child")]
  .map((e) => e.textContent)"""
GO = """(name) => {
  location.hash = [...document.querySelectorAll("#runs a")].find((link) => link.textContent === name).hash;
}"""
CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 10.3 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = numbers(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    throw new Error("the page has no background");
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest("title, desc, option")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(numbers(e.closest("svg") ? style.fill : style.color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (ratio < 4.5) low.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return [seen, low];
}"""
"""Number of visible texts, and a list of the texts with a contrast below 4.5 to 1 to their background (WCAG 2)."""


def names(page):
    """Return the names in the visible rows of the table."""
    return page.evaluate(NAMES)


def go_to_run(page, name):
    """Open the section of a run by its link."""
    page.evaluate(GO, name)
    page.locator(".run:target h2").wait_for()


def is_painted(picture):
    """Return True if a screenshot is not all of one shade."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L")).std() > 1


def is_dark(picture):
    """Return True if a screenshot is dark on average."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L")).mean() < 100
