/* What the page asks of its own server. Nothing else is ever asked. */

/** What went wrong with a request, in the server's words. */
export class RequestError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const PATIENCE_MS = 60000;
let csrf = "";

/** Fetch a document. Throws RequestError. */
export async function get(path) {
  return answered(await ask(path, { headers: { Accept: "application/json" } }));
}

/** Send a document. Throws RequestError. */
export async function post(path, document_) {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  if (csrf) headers["X-CSRF-Token"] = csrf;
  return answered(await ask(path, { method: "POST", headers, body: JSON.stringify(document_) }));
}

/** Ask who is signed in, and keep what shows that our requests are ours. */
export async function whoAmI() {
  const me = await get("api/me");
  csrf = me.csrf ?? "";
  return me;
}

async function ask(path, options) {
  try {
    return await fetch(path, {
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
      ...options,
    });
  } catch {
    throw new RequestError(0, "the monitor does not answer; is `slimfleet monitor` running?");
  }
}

async function answered(response) {
  let said = null;
  try {
    said = await response.json();
  } catch {
    said = null;
  }
  if (response.ok && said !== null) return said;
  throw new RequestError(response.status, said?.error ?? `the monitor answered ${response.status}`);
}
