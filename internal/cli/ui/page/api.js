// Requests to the server, which all carry the token of the URL.

const key = "token";

/**
 * takeToken takes the token from the address bar, so that it is not in the history, nor in a screenshot, and reports whether there was one.
 * It lasts as long as the tab.
 */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get(key);
  if (!given) {
    return false;
  }
  sessionStorage.setItem(key, given);
  history.replaceState(null, "", "#/events");
  return true;
}

/** Failure is an error that the server explained. If it isFinal, asking again does not help. */
export class Failure extends Error {
  constructor(message, isFinal) {
    super(message);
    this.isFinal = isFinal;
  }
}

async function request(path, options) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(key) ?? ""}` };
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Failure(answer.error ?? `the server answered with ${response.status}`, response.status < 500);
  }
  return response;
}

/** ask returns the answer to a request as an object. */
export async function ask(path, options) {
  try {
    return await (await request(path, options)).json();
  } catch (error) {
    if (error instanceof TypeError) {
      throw new Error("The server does not answer; is kubectl netbox ui still running?");
    }
    throw error;
  }
}

/** stream passes the messages of an endless answer on, as arrays. It returns when the answer ends. */
export async function stream(path, signal, receive) {
  const response = await request(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (lines.length > 0) {
      receive(lines.map((line) => JSON.parse(line)));
    }
  }
}
