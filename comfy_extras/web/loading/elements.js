// Elements of the page, made without ever reading text as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; texts stay texts. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for drawings. */
export function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.append(...children);
  return made;
}

/** Change a text only if it is another one, so that it is not read aloud again. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
