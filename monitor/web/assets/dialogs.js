/* Questions to the operator: signing in, and the reason of an action. */

import { post } from "./api.js";
import { h, plain, quoted, replace } from "./dom.js";

/** Is told to the window when the server does not know us any more. */
export const SIGNED_OUT = "signed-out";

/* The browser gives a modal dialog its focus, closes it on Esc and gives the focus back. */
function dialog(title, content, { submit, label, danger = false }) {
  const trouble = h("p", { class: "trouble", role: "alert" });
  const send = h("button", { type: "submit", class: danger ? "danger" : "main" }, label);
  const cancel = h("button", { type: "button", on: { click: () => box.close() } }, "Cancel");
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "dialog-title" }, title),
    content,
    trouble,
    h("div", { class: "row end" }, cancel, send),
  );
  const box = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    replace(trouble);
    try {
      await submit(new FormData(form));
      box.close();
    } catch (error) {
      replace(trouble, plain(error.message));
      if (error.status === 401 && !form.elements.secret) {
        // the session is over
        box.close();
        window.dispatchEvent(new Event(SIGNED_OUT));
      }
    } finally {
      send.disabled = false;
    }
  });
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

function field(label, input, hint) {
  const id = `field-${label.toLowerCase().replace(/\W+/g, "-")}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    input,
    hint && h("small", { id: `${id}-hint` }, hint),
  );
}

/** Ask for a name and a password, or a token. `done` is called when the server took it. */
export function signIn(done) {
  const name = h("input", {
    name: "name",
    autocomplete: "username",
    autocapitalize: "none",
    spellcheck: "false",
  });
  const secret = h("input", {
    name: "secret",
    type: "password",
    autocomplete: "current-password",
    required: true,
  });
  return dialog(
    "Sign in",
    [field("Name", name, "Leave it empty to sign in with a token."), field("Password or token", secret)],
    {
      label: "Sign in",
      submit: async (form) => {
        const user = String(form.get("name")).trim();
        const word = String(form.get("secret"));
        await post("login", user ? { user, password: word } : { token: word.trim() });
        await done();
      },
    },
  );
}

/**
 * Ask for the reason of an action and carry it out.
 * @param {object} action `kind`, `title`, `label`, `explains`; `danger`; `value`: a further field,
 *   as {label, hint, input, read}.
 * @param {string} device Its name, "" for the whole fleet.
 * @param {function(string)} done Is told what the server answered.
 */
export function confirmAction(action, device, done) {
  const reason = h("textarea", { name: "reason", rows: "3", required: true, maxlength: "500" });
  const { value } = action;
  return dialog(
    action.title,
    [
      h(
        "p",
        {},
        device ? ["Device: ", h("strong", {}, quoted(device)), ". "] : "The whole fleet. ",
        action.explains,
      ),
      value && field(value.label, value.input, value.hint),
      field(
        action.kind === "note" ? "Note" : "Reason",
        reason,
        "It is written into the audit log, with your name.",
      ),
    ],
    {
      label: action.label,
      danger: action.danger,
      submit: async (form) => {
        const words = String(form.get("reason")).trim();
        if (!words) throw new Error("say why, in a few words: others will read it in the audit log");
        const answer = await post("api/actions", {
          action: action.kind,
          device,
          reason: words,
          ...(value ? value.read(form) : {}),
        });
        if (answer.done === false) throw new Error(answer.detail || "the server refused it");
        done(answer.detail || `${action.label}: done`);
      },
    },
  );
}
