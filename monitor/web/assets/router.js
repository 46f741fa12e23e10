/* The address after # says what is shown, with filters and order: "back" and a reload come back to
   it. */

/** Return where the page is: its parts and its parameters. */
export function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { view: parts[0] ?? "fleet", name: parts[1] ?? "", parameters: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // somebody typed a lone percent sign
  }
}

/** Return the address of a view. */
export function address(view, name = "", parameters = null) {
  const query = parameters
    ? new URLSearchParams(Object.entries(parameters).filter(([, value]) => value)).toString()
    : "";
  const at = name === "" ? "" : `/${encodeURIComponent(String(name).replace(/\p{Surrogate}/gu, "\ufffd"))}`;
  return `#/${view}${at}${query ? `?${query}` : ""}`;
}

/** Go somewhere. */
export function go(view, name = "") {
  location.hash = address(view, name);
}

/** Note filters and order in the address, without a step in the history. */
export function note(view, name, parameters) {
  const there = address(view, name, parameters);
  if (location.hash !== there) history.replaceState(null, "", there);
}
