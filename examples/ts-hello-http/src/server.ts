/** ts-hello-http: an HTTP component for a PlexSpaces node. README.md says what it answers. */

export default {
  async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    switch (`${request.method} ${url.pathname}`) {
      case "GET /":
        return new Response(`${greeting(url.searchParams.get("name"))}\n`);
      case "POST /echo":
        // The body goes back as it comes: nothing waits for its end.
        return new Response(request.body, {
          headers: { "content-type": request.headers.get("content-type") ?? "text/plain" },
        });
      case "GET /events":
        return new Response(ReadableStream.from(ticks()), {
          headers: { "content-type": "text/event-stream" },
        });
      default:
        return new Response("nothing here\n", { status: 404 });
    }
  },
};

export function greeting(name: string | null): string {
  return `Hello, ${name || "world"}!`;
}

/** Three server-sent events, one a second. */
async function* ticks() {
  for (const number of [1, 2, 3]) {
    if (number > 1) {
      await new Promise<void>((done) => setTimeout(done, 1000));
    }
    yield new TextEncoder().encode(`data: tick ${number}\n\n`);
  }
}
