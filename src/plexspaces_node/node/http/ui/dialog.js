// Dialogs: what they ask, what they do, and the error if it fails. The focus returns to where it was.

import { make } from "./dom.js";
import { visible } from "./format.js";

/** An error with what to do about it. */
export function problem(error) {
  return make(
    "p",
    { class: "problem", role: "alert" },
    visible(error.message),
    error.hint && make("span", { class: "hint" }, "Hint: ", make("code", {}, visible(error.hint))),
  );
}

/** Open a dialog with `content`; returns what closes it. */
export function open(title, content, { closed = () => {} } = {}) {
  const opener = document.activeElement;
  const heading = make("h2", { id: "dialog-title" }, title);
  const dialog = make(
    "dialog",
    {
      "aria-labelledby": "dialog-title",
      close: () => {
        dialog.remove();
        closed();
        if (opener?.isConnected) opener.focus();
      },
    },
    make("div", { class: "dialog-head" }, heading, make("button", { type: "button", class: "plain", "aria-label": "Close", click: () => dialog.close() }, "✕")),
    content,
  );
  document.body.append(dialog);
  dialog.showModal();
  return () => dialog.close();
}

/** Ask before something is done, and do it: `perform` runs while the dialog is open, which shows its error.
 *
 * `otherwise(error)` may return another question's properties for an error, in place of this one.
 */
export function confirm({ title, lost, label, perform, otherwise = () => null }) {
  const told = make("div");
  const buttons = make("div", { class: "dialog-buttons" });
  const close = open(title, make("div", { class: "dialog-body" }, make("p", {}, lost), told, buttons));
  const button = make(
    "button",
    {
      type: "button",
      class: "danger",
      click: async () => {
        button.disabled = true;
        try {
          await perform();
          close();
        } catch (error) {
          button.disabled = false;
          const next = otherwise(error);
          if (next === null) told.replaceChildren(problem(error));
          else {
            close();
            confirm(next);
          }
        }
      },
    },
    label,
  );
  const cancel = make("button", { type: "button", click: () => close() }, "Cancel");
  buttons.append(cancel, button);
  // What hurts is not what Enter does first.
  cancel.focus();
}

/** A labelled control of a form. */
export function field(label, control, help = null) {
  const id = `field-${label.toLowerCase().replace(/\W+/g, "-")}`;
  control.id = id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  return make("div", { class: "field" }, make("label", { for: id }, label), control, help && make("small", { id: `${id}-help` }, help));
}
