// The console's JSON, with the key that it may need. The key lives in this tab's session storage and nowhere else.

const KEY = "paretoproxy-key";
const seen = new Map(); // path → {etag, data}: what has not changed is not sent again
const MOST_SEEN = 50;

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => {
    sessionStorage.removeItem(KEY);
    seen.clear();
  },
};

/** `parameters`: those without a value are left out. Raises ApiError; status 0: the proxy cannot be reached. */
export async function get(path, parameters = {}, signal = undefined) {
  const url = new URL(`./api/${path}`, import.meta.url);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const known = seen.get(url.href);
  const headers = { accept: "application/json" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (known) headers["if-none-match"] = known.etag;
  const response = await answer(url, { headers, signal, cache: "no-store", credentials: "omit" });
  if (response.status === 304) return known.data;
  const data = await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(response.status, data?.error?.message ?? `the proxy answered ${response.status}`);
  remember(url.href, response.headers.get("etag"), data);
  return data;
}

async function answer(url, request) {
  try {
    return await fetch(url, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the proxy cannot be reached");
  }
}

function remember(href, etag, data) {
  if (!etag) return;
  seen.delete(href);
  seen.set(href, { etag, data });
  if (seen.size > MOST_SEEN) seen.delete(seen.keys().next().value);
}
