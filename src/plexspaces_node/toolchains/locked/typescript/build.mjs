/**
 * Compiles one TypeScript project: `node build.mjs REQUEST.json`.
 *
 * Checks its types (tsc), bundles it with the SDK (esbuild) and puts the bundle into a component
 * with a JavaScript engine (componentize-qjs). Run by `plexspaces build`, which writes the request;
 * the three tools are in the directory `tools` of it. Exits 1 with the tools' own words when the
 * project does not compile.
 */

import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire, isBuiltin } from "node:module";
import { join, resolve } from "node:path";

const ACTOR_WORLD = "typescript";
/** That of an actor whose code has the word `fetch`: others run on nodes that do not know it. */
const FETCHING_WORLD = "typescript-with-http";
const SERVER_WORLD = "server";
const FETCHES = /\bfetch\b/;
/** What the engine runs; newer syntax is translated. */
const SYNTAX = "es2023";
const WITHOUT_ASYNC = { "async-await": false, "async-generator": false, "for-await": false };
/** What the engine brings. */
const LIBRARY = "ES2024";
/** A place in the bundle, under the name the engine gives to it. */
const FRAME = /componentize-qjs:user\.js:(\d+):(\d+)/;
const UNRESOLVED = /^Could not resolve "(?![./])([^"]+)"/;

/** The name of something that browsers or Node.js have, and the engine has not. */
const GLOBAL = /Cannot find name '(Buffer|process|require|module|__dirname|__filename)'\.[^\n]*/g;

const UNDEFINED = /\b(\w+) is not defined/;

const COLOR = /\x1b\[[0-9;]*m/g;
/** The place of a mistake in the settings that are written here, and the line as it is shown. */
const PLACE = /^\S*tsconfig\.json:1:\d+ - (?=error TS5)/gm;
const SHOWN = /\n\n1 \{"extends":.*\n.*~$/gm;

/** What the project did wrong, in words for its author. */
class DoesNotCompile extends Error {}

async function main(request) {
  const require = createRequire(join(request.tools, "package.json"));
  const esbuild = require("esbuild");
  let bundle = await bundled(request, esbuild);
  request.fetches = request.serves || FETCHES.test(bundle.code);
  if (request.fetches && !request.serves) {
    bundle = await bundled(request, esbuild);
  }
  const checking = checkTypes(request);
  checking.catch(() => {});
  const component = componentized(request, bundle, require("componentize-qjs"));
  component.catch(() => {});
  // Types first: what they find is often why the code does not start.
  await checking;
  writeFileSync(request.output, await component);
}

// ---- types -----------------------------------------------------------------------------------

async function checkTypes(request) {
  const config = join(request.scratch, "tsconfig.json");
  writeFileSync(config, JSON.stringify(await typesConfig(request)));
  const ran = await tsc(request, "--project", config, "--pretty", "true");
  if (ran.status !== 0) {
    const words = ran.output.replace(COLOR, "").replace(/\n+Found \d+ error.*/s, "");
    // What the settings above inherit from the project's is shown as a mistake in them.
    const here = words.replace(GLOBAL, (_, name) => `'${name}' is part of Node.js and not here.`);
    throw new DoesNotCompile(here.replace(PLACE, "tsconfig.json - ").replace(SHOWN, "").trim());
  }
}

/**
 * The settings of the check: the project's tsconfig.json with defaults below it, and above it what
 * the engine decides. What an application finds when it runs is not for the project to say.
 */
async function typesConfig(request) {
  const own = join(request.project, "tsconfig.json");
  const options = existsSync(own) ? await optionsOf(request, own) : {};
  const paths = Object.entries(options.paths ?? {}).map(([name, places]) => [
    name,
    places.map((place) => resolve(request.project, place)),
  ]);
  const unsaid = {
    ...(options.strict === undefined && { strict: true }),
    ...(options.module === undefined && { module: "preserve", moduleResolution: "bundler" }),
  };
  return {
    ...(existsSync(own) && { extends: own }),
    compilerOptions: {
      ...unsaid,
      paths: { ...Object.fromEntries(paths), plexspaces: [join(request.sdk, "index.ts")] },
      allowImportingTsExtensions: true,
      allowJs: true,
      target: SYNTAX,
      lib: [LIBRARY],
      types: [],
      rootDir: "/",
      skipLibCheck: true,
      noEmit: true,
      composite: false,
      incremental: false,
      declaration: false,
      declarationMap: false,
      emitDeclarationOnly: false,
      isolatedDeclarations: false,
    },
    files: [
      join(request.project, request.entry),
      join(request.sdk, "globals.d.ts"),
      ...(request.fetches ? [join(request.sdk, "web.d.ts")] : []),
      ...(request.serves ? [join(request.sdk, "timers.d.ts")] : []),
    ],
    include: [],
    references: [],
  };
}

async function optionsOf(request, config) {
  const shown = await tsc(request, "--project", config, "--showConfig");
  try {
    return JSON.parse(shown.output).compilerOptions ?? {};
  } catch {
    // It is broken: the check, which extends it, says where.
    return {};
  }
}

function tsc(request, ...words) {
  const program = join(request.tools, "node_modules", "typescript", "lib", "tsc.js");
  const child = spawn(process.execPath, [program, ...words], {
    cwd: request.project,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const parts = [];
  child.stdout.on("data", (part) => parts.push(part));
  child.stderr.on("data", (part) => parts.push(part));
  return new Promise((done, fail) => {
    child.on("error", fail);
    child.on("close", (status) => done({ status, output: Buffer.concat(parts).toString() }));
  });
}

// ---- the bundle ------------------------------------------------------------------------------

async function bundled(request, esbuild) {
  let result;
  try {
    result = await esbuild.build({
      absWorkingDir: request.project,
      stdin: {
        contents: entry(request),
        resolveDir: request.project,
        sourcefile: "plexspaces:entry",
      },
      bundle: true,
      write: false,
      outfile: "bundle.js",
      format: "esm",
      platform: "browser",
      // A package that has a form for browsers needs less of Node.js in it; one that has a form for
      // workers as well needs no page.
      mainFields: ["browser", "module", "main"],
      conditions: ["worker", "browser", "import", "module", "default"],
      define: { "process.env.NODE_ENV": '"production"' },
      target: SYNTAX,
      // An actor has promises of the SDK, which the engine's own async functions do not use.
      ...(!request.serves && { supported: WITHOUT_ASYNC }),
      charset: "utf8",
      legalComments: "none",
      sourcemap: "external",
      sourcesContent: false,
      logLevel: "silent",
      plugins: [modules(request)],
    });
  } catch (failure) {
    if (failure.errors === undefined) {
      throw failure;
    }
    const told = await esbuild.formatMessages(failure.errors.map(advised), { kind: "error" });
    throw new DoesNotCompile(told.join("").trim());
  }
  const text = (name) => result.outputFiles.find((file) => file.path.endsWith(name)).text;
  return { code: text("bundle.js"), sources: sourcesOf(JSON.parse(text("bundle.js.map"))) };
}

/** An error with advice that fits an application, which has no externals and no plugins. */
function advised(error) {
  const missing = UNRESOLVED.exec(error.text)?.[1];
  if (missing === undefined) {
    return { ...error, pluginName: "" };
  }
  if (isBuiltin(missing)) {
    const text = `${missing} is built into Node.js and not here${instead(missing)}`;
    return { ...error, pluginName: "", text, notes: [] };
  }
  const text = `Packages are taken from the project's node_modules: npm install ${packageOf(missing)}`;
  return { ...error, pluginName: "", notes: [{ text }] };
}

/** What does the work of a part of Node.js. */
function instead(name) {
  const [part] = name.replace(/^node:/, "").split("/");
  const known = {
    assert: "npm install assert has it",
    buffer: "use Uint8Array, or npm install buffer has it",
    console: "console is there without an import",
    crypto:
      "crypto.getRandomValues and crypto.randomUUID are there without an import, " +
      "npm install @noble/hashes has digests",
    events: "npm install events has it",
    fs: "there are no files: keep values with keyvalue of plexspaces",
    os: "env of plexspaces reads variables",
    path: "npm install path-browserify, and import that",
    perf_hooks: "performance.now is there without an import",
    process: "env of plexspaces reads variables",
    punycode: "npm install punycode has it",
    stream: "nothing runs between two messages",
    string_decoder: "TextDecoder is there without an import",
    timers: "nothing runs between two messages",
    url: "npm install url has it",
    util: "TextEncoder, TextDecoder and console's formats are there, npm install util has the rest",
  }[part];
  if (["dgram", "dns", "http", "http2", "https", "net", "tls"].includes(part)) {
    return ": fetch is there without an import, and other networks are not";
  }
  return known === undefined ? "" : `: ${known}`;
}

/** The package of a module's name: without what is inside of it. */
function packageOf(module) {
  return module.split("/").slice(0, module.startsWith("@") ? 2 : 1).join("/");
}

function entry({ entry, serves, fetches }) {
  const application = JSON.stringify(`./${entry}`);
  const name = JSON.stringify(entry);
  if (serves) {
    // The web's interfaces are there before the application's own files run.
    return `
      import "plexspaces:sdk/polyfill";
      import { serve } from "plexspaces:sdk/server";
      import "plexspaces:sdk/fetch";
      import * as application from ${application};
      export const handler = serve(application, ${name});
    `;
  }
  return `
    import { finished } from "plexspaces:sdk/promise";
    import "plexspaces:sdk/polyfill";
    ${fetches ? 'import "plexspaces:sdk/fetch";' : ""}
    import * as application from ${application};
    import { bind } from "plexspaces:sdk/component";
    export const actor = bind(application, ${name}, finished);
  `;
}

/** Where modules that are no files of the project come from: the SDK, and the engine's bindings. */
function modules({ sdk }) {
  const namespace = "plexspaces";
  const ours = (name) => ({ path: name, namespace });
  return {
    name: "plexspaces",
    setup(build) {
      build.onResolve({ filter: /^plexspaces$/ }, () => ours("index"));
      build.onResolve({ filter: /^plexspaces\// }, ({ path }) => ({
        errors: [{ text: `${path} is for unit tests and cannot be part of an application` }],
      }));
      build.onResolve({ filter: /^plexspaces:sdk\// }, ({ path }) => ours(path.split("/")[1]));
      build.onResolve({ filter: /^\.\/.*\.js$/, namespace }, ({ path }) => ours(path.slice(2, -3)));
      build.onResolve({ filter: /^\.\/.*\.json$/, namespace }, ({ path }) => ours(path.slice(2)));
      build.onResolve({ filter: /^(plexspaces|wasi):/, namespace }, ({ path }) => ({
        path,
        external: true,
      }));
      build.onLoad({ filter: /\.json$/, namespace }, ({ path }) => ({
        contents: readFileSync(join(sdk, path), "utf8"),
        loader: "json",
      }));
      build.onLoad({ filter: /.*/, namespace }, ({ path }) => ({
        contents: readFileSync(join(sdk, `${path}.ts`), "utf8"),
        loader: "ts",
      }));
    },
  };
}

// ---- where a line of the bundle came from ----------------------------------------------------

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/**
 * A source map in the form the SDK reads: `files`, and for each line of the bundle, in threes, from
 * which column on, which file, which line. Without the SDK's own files.
 */
function sourcesOf(map) {
  const files = map.sources.map((file) => (file.startsWith("plexspaces:") ? undefined : file));
  let [file, line] = [0, 0];
  const lines = map.mappings.split(";").map((segments) => {
    const parts = [];
    let column = 0;
    for (const segment of segments.split(",")) {
      const numbers = decoded(segment);
      column += numbers[0] ?? 0;
      if (numbers.length > 1) {
        file += numbers[1];
        line += numbers[2];
        const last = parts.slice(-2);
        if (files[file] !== undefined && (last[0] !== file || last[1] !== line + 1)) {
          parts.push(column + 1, file, line + 1);
        }
      }
    }
    return parts;
  });
  return { files: files.map((name) => name ?? ""), lines };
}

function decoded(segment) {
  const numbers = [];
  let value = 0;
  let shift = 0;
  for (const char of segment) {
    const digit = DIGITS.indexOf(char);
    value |= (digit & 31) << shift;
    shift += 5;
    if ((digit & 32) === 0) {
      numbers.push(value & 1 ? -(value >> 1) : value >> 1);
      value = 0;
      shift = 0;
    }
  }
  return numbers;
}

// ---- the component ---------------------------------------------------------------------------

async function componentized(request, { code, sources }, { componentize }) {
  const known = `globalThis.__plexspaces_sources__ = ${JSON.stringify(JSON.stringify(sources))};`;
  try {
    const { component } = await componentize({
      witPath: request.wit,
      world: request.serves ? SERVER_WORLD : request.fetches ? FETCHING_WORLD : ACTOR_WORLD,
      jsSource: `${code}\n${known}\n`,
      // A server waits for its body, its client and its timers; an actor's handler does not.
      sync: !request.serves,
    });
    return component;
  } catch (failure) {
    throw new DoesNotCompile(readable(failure.message, sources, request));
  }
}

/** The engine's words on what was thrown at the top of a file, with the project's own places. */
function readable(message, sources, request) {
  const words = message.trim().replace(/^.*JavaScript module(?: evaluation)?: /, "");
  const whole = words.replace(UNDEFINED, (found, name) => told(found, name, request));
  const lines = whole.split("\n").map((line) => placed(line, sources));
  return lines.filter((line) => line !== undefined).join("\n");
}

/** The engine's words on a name that is not there, with who has it. */
function told(words, name, { sdk }) {
  const elsewhere = JSON.parse(readFileSync(join(sdk, "elsewhere.json"), "utf8"));
  const owner = Object.keys(elsewhere).find((owner) => elsewhere[owner].includes(name));
  return owner === undefined ? words : `${words}: it is part of ${owner} and not here`;
}

/** A line with the place in the bundle replaced, undefined for a frame of the SDK's. */
function placed(line, { files, lines }) {
  const at = FRAME.exec(line);
  if (at === null) {
    return line;
  }
  const parts = lines[at[1] - 1] ?? [];
  let place;
  for (let part = 0; part < parts.length && (!place || parts[part] <= at[2]); part += 3) {
    place = `${files[parts[part + 1]]}:${parts[part + 2]}`;
  }
  return place && line.replace(FRAME, place);
}

try {
  await main(JSON.parse(readFileSync(process.argv[2], "utf8")));
} catch (error) {
  if (!(error instanceof DoesNotCompile)) {
    throw error;
  }
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
