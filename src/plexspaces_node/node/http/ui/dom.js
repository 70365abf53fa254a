// Makes and changes elements. Text goes in as text nodes only, and nothing here takes markup.

/** Make an element: `make("td", { class: "number", title: "…" }, "text", child)`.
 *
 * A property that is a function becomes a listener (`click: …`), true an attribute without a value;
 * false, null and undefined leave it out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set an element's text, if it is another one. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute, if it is another one; null removes it. */
export function mark(element, name, value) {
  if (value === null || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** A list of names and values, each added when it is said for the first time. */
export class Facts {
  constructor(kind) {
    this.list = make("dl", { class: kind });
    this.shown = new Map();
  }

  /** Show a value, with a title on both when it is new. */
  say(name, value, title = null) {
    let shown = this.shown.get(name);
    if (shown === undefined) {
      shown = make("dd");
      this.shown.set(name, shown);
      this.list.append(make("div", { title }, make("dt", {}, name), shown));
    }
    say(shown, value);
  }
}

/** Put content where it scrolls if it is too wide or too high, with the keyboard too. */
export function scrolling(label, content, kind = "") {
  const element = make("div", { class: `scroll ${kind}` }, content);
  new ResizeObserver(() => {
    const isScrolling = element.scrollWidth > element.clientWidth || element.scrollHeight > element.clientHeight;
    mark(element, "tabindex", isScrolling ? "0" : null);
    mark(element, "role", isScrolling ? "region" : null);
    mark(element, "aria-label", isScrolling ? label : null);
  }).observe(element);
  return element;
}

/** Tell those who do not see the page. */
export function announce(text) {
  say(document.getElementById("announcements"), text);
}

/** Tell a function the last thing it was asked to show, once a frame. */
export function framed(show) {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      show();
    });
  };
}

/** The children of an element, one for each item: kept while the item is there, and moved only if they must be. */
export class Rows {
  /** `create(item)` makes an element; `update(element, item)` shows what an item is now. */
  constructor(parent, create, update) {
    this.parent = parent;
    this.create = create;
    this.update = update;
    this.byKey = new Map();
  }

  /** Show an item without moving its row. */
  put(key, item) {
    let row = this.byKey.get(key);
    if (row === undefined) {
      row = this.create(item);
      this.byKey.set(key, row);
    }
    this.update(row, item);
  }

  remove(key) {
    this.byKey.get(key)?.remove();
    this.byKey.delete(key);
  }

  /** Have the rows in the order of these keys. */
  order(keys) {
    let next = this.parent.firstChild;
    for (const key of keys) {
      const row = this.byKey.get(key);
      if (row === next) next = next.nextSibling;
      else this.parent.insertBefore(row, next);
    }
  }

  /** Show these items, in this order, and no others. */
  show(items, keyOf) {
    const keys = items.map(keyOf);
    const wanted = new Set(keys);
    for (const key of [...this.byKey.keys()]) if (!wanted.has(key)) this.remove(key);
    items.forEach((item, index) => this.put(keys[index], item));
    this.order(keys);
  }
}
