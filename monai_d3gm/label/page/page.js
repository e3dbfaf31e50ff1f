// The page of the server: its images and models, a restoration with its parameters, progress, panel and results.
"use strict";

const find = (name) => document.getElementById(name);
const WAIT = 1000; // milliseconds between two questions
let token = null;
let models = {};
const shown = new Map(); // job -> its entry in the list

function say(text) {
  find("message").textContent = text;
  find("message").hidden = !text;
}

// An element with attributes and content; text is never taken for HTML.
function make(tag, attributes = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

async function ask(address, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const reply = await fetch(address, { ...options, headers });
  if (!reply.ok) {
    let reason = reply.statusText;
    try {
      const detail = (await reply.json()).detail;
      reason = typeof detail === "string" ? detail : JSON.stringify(detail);
    } catch (error) { /* no JSON: the status says what there is */ }
    if (reply.status === 401) logOut();
    throw new Error(`${reply.status}: ${reason}`);
  }
  return reply;
}

function guarded(action) {
  return async (event) => {
    if (event) event.preventDefault();
    say("");
    try {
      await action(event);
    } catch (error) {
      say(error.message);
    }
  };
}

function logOut() {
  token = null;
  find("login").hidden = false;
  find("main").hidden = true;
}

async function logIn() {
  const form = new FormData(find("login"));
  const body = new URLSearchParams({ username: form.get("user"), password: form.get("password") });
  token = (await (await ask("auth/token", { method: "POST", body })).json()).access_token;
  find("login").reset();
  find("login").hidden = true;
  await begin();
}

async function begin() {
  const info = await (await ask("info/")).json();
  models = info.models;
  find("model").replaceChildren(...Object.keys(models).map((name) => make("option", { value: name }, name)));
  showParameters();
  await showImages();
  find("main").hidden = false;
  watch();
}

async function showImages() {
  const objects = (await (await ask("datastore/?output=all")).json()).objects;
  const chosen = find("image").value;
  const options = Object.entries(objects).map(([name, entry]) => {
    const info = entry.image.info;
    const words = [info.SeriesDescription, info.PatientID, info.kind].filter(Boolean).join(", ");
    return make("option", { value: name }, `${name} (${words})`);
  });
  find("image").replaceChildren(make("option", { value: "" }, "none"), ...options);
  find("image").value = chosen in objects ? chosen : "";
}

// One field for each parameter; a field that is left empty leaves the parameter as the model has it.
function showParameters() {
  const model = models[find("model").value];
  find("description").textContent = model.description;
  const fields = Object.entries(model.config).filter(([name]) => name !== "device" && name !== "output").map(([name, value]) => {
    let field;
    if (typeof value === "boolean") {
      field = make("select", { name, "data-kind": "truth" }, make("option", { value: "" }, `${value} (default)`),
        make("option", { value: "true" }, "true"), make("option", { value: "false" }, "false"));
    } else if (value !== null && typeof value === "object") {
      field = make("input", { name, "data-kind": "object", placeholder: JSON.stringify(value), autocomplete: "off" });
    } else {
      field = make("input", { name, placeholder: value === null ? "" : String(value), autocomplete: "off" });
    }
    return make("label", {}, `${name} `, field);
  });
  find("parameters").replaceChildren(...fields);
}

function parameters() {
  const given = {};
  for (const field of find("parameters").elements) {
    const text = field.value.trim();
    if (!text) continue;
    if (field.dataset.kind === "truth") given[field.name] = text === "true";
    else if (field.dataset.kind === "object") given[field.name] = parsed(field.name, text);
    else given[field.name] = Number.isNaN(Number(text)) ? text : Number(text);
  }
  return given;
}

function parsed(name, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${name} is no JSON: ${error.message}`);
  }
}

async function start() {
  const model = find("model").value, image = find("image").value, file = find("file").files[0];
  if (!image === !file) throw new Error("Choose an image of the server or a file of yours, one of them.");
  const body = new FormData();
  body.set("params", JSON.stringify(parameters()));
  if (file) body.set("file", file);
  const query = new URLSearchParams({ wait: "false", ...(image ? { image } : {}) });
  find("start").disabled = true;
  try {
    show(await (await ask(`infer/${encodeURIComponent(model)}?${query}`, { method: "POST", body })).json());
    find("file").value = "";
  } finally {
    find("start").disabled = false;
  }
}

async function watch() {
  try {
    const jobs = await (await ask("jobs/")).json();
    jobs.forEach(show);
    for (const [name, entry] of shown) {
      if (!jobs.some((job) => job.job === name)) {
        entry.item.remove();
        shown.delete(name);
      }
    }
    find("none").hidden = shown.size > 0;
  } catch (error) {
    say(error.message);
  }
  if (!find("main").hidden) setTimeout(watch, WAIT);
}

function show(job) {
  let entry = shown.get(job.job);
  if (!entry) {
    entry = { item: make("li", { "data-job": job.job }), state: "" };
    shown.set(job.job, entry);
    find("jobs").prepend(entry.item);
    find("none").hidden = true;
  }
  const running = job.state === "waiting" || job.state === "running";
  const words = job.state === "waiting" ? `waiting, ${job.before} before it` : job.state;
  if (entry.state === job.state) { // what is there stays, so that it can be clicked on
    if (running) {
      entry.words.textContent = `${job.model} of ${job.image}: ${words}`;
      entry.bar.value = job.progress;
    }
    return;
  }
  entry.state = job.state;
  entry.item.dataset.state = job.state;
  entry.words = make("p", {}, `${job.model} of ${job.image}: ${words}`);
  entry.bar = make("progress", { value: job.progress, max: 1 });
  const parts = running ? [entry.words, entry.bar] : [entry.words];
  if (job.error) parts.push(make("p", { class: "error" }, job.error.detail));
  if (job.state === "done") parts.push(...results(job));
  const remove = make("button", { type: "button" }, running ? "Cancel" : "Remove");
  remove.addEventListener("click", guarded(() => ask(`jobs/${job.job}`, { method: "DELETE" })));
  entry.item.replaceChildren(...parts, remove);
}

function results(job) {
  const links = Object.entries(job.results).map(([name, address]) => {
    const link = make("a", { href: address, "data-result": name }, name);
    link.addEventListener("click", guarded(() => save(address)));
    return link;
  });
  const warnings = (job.details.warnings || []).map((text) => make("li", {}, text));
  const parts = [make("p", {}, ...links), make("ul", { class: "warnings" }, ...warnings)];
  if (job.details.stored) parts.push(make("p", {}, `stored as ${job.details.stored}`));
  if (job.results.panel && !Object.keys(job.details.inputs || {}).length) {
    const image = make("img", { alt: `input, restored image and standard deviation of ${job.image}` });
    ask(job.results.panel).then((reply) => reply.blob()).then((blob) => { image.src = URL.createObjectURL(blob); })
      .catch((error) => say(error.message));
    parts.push(image);
  }
  return parts;
}

// Save a result: fetched here, since a link would not carry the token.
async function save(address) {
  const reply = await ask(address);
  const name = /filename\*?=(?:utf-8'')?"?([^";]+)/i.exec(reply.headers.get("content-disposition") || "");
  const link = make("a", { download: name ? decodeURIComponent(name[1]) : "result" });
  link.href = URL.createObjectURL(await reply.blob());
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

find("login").addEventListener("submit", guarded(logIn));
find("model").addEventListener("change", showParameters);
find("refresh").addEventListener("click", guarded(showImages));
find("start").addEventListener("click", guarded(start));
guarded(async () => {
  const auth = await (await ask("auth/")).json();
  if (auth.enabled) logOut();
  else await begin();
})();
