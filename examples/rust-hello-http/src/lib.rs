//! rust-hello-http: an HTTP component for a PlexSpaces node. README.md says what it answers.

use std::convert::Infallible;

use futures_lite::stream;
use wstd::http::body::Bytes;
use wstd::http::{Body, Error, Method, Request, Response, StatusCode};
use wstd::time::Duration;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => text(StatusCode::OK, greeting(request.uri().query())),
        (&Method::POST, "/echo") => echo(request),
        (&Method::GET, "/events") => events(),
        _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
    }
}

/// What `/` answers: `?name=Ada` is greeted by name.
fn greeting(query: Option<&str>) -> String {
    let name = query
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("name="))
        .unwrap_or("world");
    format!("Hello, {name}!\n")
}

/// The body goes back as it comes: nothing waits for its end.
fn echo(request: Request<Body>) -> Result<Response<Body>, Error> {
    let mut response = Response::builder();
    if let Some(kind) = request.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    Ok(response.body(request.into_body())?)
}

/// Three server-sent events, one a second.
fn events() -> Result<Response<Body>, Error> {
    let ticks = stream::unfold(1..=3, |mut numbers| async move {
        let number = numbers.next()?;
        if number > 1 {
            wstd::task::sleep(Duration::from_secs(1)).await;
        }
        let event = Bytes::from(format!("data: tick {number}\n\n"));
        Some((Ok::<_, Infallible>(event), numbers))
    });
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .body(Body::from_try_stream(ticks))?)
}

fn text(status: StatusCode, text: impl Into<String>) -> Result<Response<Body>, Error> {
    Ok(Response::builder()
        .status(status)
        .header("content-type", "text/plain; charset=utf-8")
        .body(text.into().into())?)
}

// `cargo test` runs these without a node and without WebAssembly.
#[cfg(test)]
mod tests {
    use super::greeting;

    #[test]
    fn greeting_is_by_name() {
        assert_eq!(greeting(Some("name=Ada")), "Hello, Ada!\n");
        assert_eq!(greeting(None), "Hello, world!\n");
    }
}
