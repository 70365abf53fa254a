// The page's frame: which page is shown, who is signed in, and whether the node is there.

import { Activity } from "./activity.js";
import { token } from "./api.js";
import { make, mark, say } from "./dom.js";
import { visible } from "./format.js";
import { Overview } from "./overview.js";
import { Session } from "./session.js";
import { signIn } from "./sign_in.js";

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const activity = new Activity();
let session = null;
let page = null;
/** The files of the page that is asked for could not be loaded. */
let isWaiting = false;

async function begin(reason = null) {
  page?.close();
  page = null;
  activity.stop();
  banner.replaceChildren();
  try {
    session = await Session.open();
  } catch (error) {
    if (error.status === 401) {
      // Not known, or not any more.
      const known = token.get() !== null;
      token.forget();
      showWho(null);
      signIn(main, known ? error : reason, () => begin());
    } else showLost(error, () => begin());
    return;
  }
  showWho(session);
  if (session.mayRead) activity.start();
  await route();
}

async function pageOf(hash) {
  const [, kind = "", ...rest] = hash.split("/");
  const parts = rest.map(decoded);
  if (kind === "app" && parts[0]) {
    const { ApplicationPage } = await import("./application.js");
    return new ApplicationPage(activity, session, parts[0], parts[1] === "trace" ? parts[2] : null);
  }
  if (kind === "machines") {
    const { Machines } = await import("./machines.js");
    return new Machines(activity, session);
  }
  return new Overview(activity, session);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

async function route(isMove = false) {
  if (session === null) return;
  const hash = location.hash;
  let next;
  try {
    next = await pageOf(hash);
  } catch {
    // The page that is shown stays until the node answers: see `showConnection`.
    if (hash === location.hash) isWaiting = true;
    return;
  }
  if (hash !== location.hash) return;
  isWaiting = false;
  page?.close();
  page = next;
  document.title = `${visible(page.title)} · PlexSpaces`;
  for (const link of document.querySelectorAll("nav a[data-page]")) {
    const isMachines = hash.startsWith("#/machines");
    mark(link, "aria-current", (link.dataset.page === "machines") === isMachines ? "page" : null);
  }
  if (!session.mayRead && !hash.startsWith("#/app/")) {
    main.replaceChildren(notAllowed());
    return;
  }
  main.replaceChildren(page.element);
  page.open();
  if (isMove) {
    scrollTo(0, 0);
    page.element.querySelector("h1").focus({ preventScroll: true });
  }
}

function notAllowed() {
  return make(
    "div",
    { class: "empty-state" },
    make("h1", {}, "Nothing to see with this token"),
    make("p", {}, `It allows ${[...session.scopes].join(", ") || "nothing"}. To list applications a token needs the scope read:`),
    make("pre", {}, "plexspaces token create --name dashboard --scope read"),
    session.scopes.has("invoke") && make("p", {}, "Messages can be sent to an application whose name you know: open ", make("code", {}, "/#/app/NAME"), "."),
  );
}

function showWho(session) {
  const who = document.getElementById("who");
  who.replaceChildren();
  if (session === null) return;
  const { identity } = session;
  const tenant = identity.tenant === "*" ? "all tenants" : `tenant ${identity.tenant}`;
  const scopes = identity.scopes.join(", ") || "nothing";
  const text = identity.kind === "anonymous" ? "no token needed" : identity.name;
  who.append(make("span", { title: `${scopes} of ${tenant}` }, visible(text)));
  if (session.hasToken) who.append(make("button", { type: "button", class: "plain", click: signOut }, "Sign out"));
}

function signOut() {
  token.forget();
  // Nobody is refused: it is not said that the token was.
  session = null;
  begin();
}

/** Say that the node is not there, until it is. */
function showLost(problem, retry) {
  let wait = 1;
  const text = make("span");
  const attempt = () => {
    clearInterval(timer);
    retry();
  };
  const timer = setInterval(() => {
    say(text, `${problem.message}. Trying again in ${wait} s.`);
    if (wait-- <= 0) attempt();
  }, 1000);
  say(text, `${problem.message}.`);
  banner.replaceChildren(text, make("button", { type: "button", click: attempt }, "Try now"));
}

function showConnection() {
  const shown = document.getElementById("connection");
  mark(shown, "data-state", activity.isConnected ? "live" : "lost");
  say(shown, activity.isConnected ? "live" : "disconnected");
  mark(main, "data-stale", activity.isConnected || !activity.isKnown ? null : "");
  if (activity.isConnected || activity.running === null) {
    if (activity.isConnected) {
      banner.replaceChildren();
      if (isWaiting) route(true);
    }
    return;
  }
  const seconds = Math.max(1, Math.round((activity.retryAt - Date.now()) / 1000));
  const why = activity.problem ? ` (${visible(activity.problem.message)})` : "";
  banner.replaceChildren(
    make("span", {}, `Disconnected from the node${why}. Trying again in ${seconds} s; what is shown is from before.`),
    make("button", { type: "button", click: () => activity.tryNow() }, "Try now"),
  );
}

activity.addEventListener("connection", showConnection);
addEventListener("unauthenticated", ({ detail }) => {
  if (session === null) return;
  session = null;
  begin(detail);
});
addEventListener("hashchange", () => {
  if (location.hash === "" || location.hash.startsWith("#/")) route(true);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

begin();
