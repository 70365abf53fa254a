//! Requests with their whole bodies: the contract's own interface, for languages that do not reach
//! `wasi:http`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use tokio::time::timeout;
use wasmtime_wasi_http::Error;

use super::fetch::{TERMINATED, begin};
use super::transfer::Incoming;
use crate::host::{ActorError, Surroundings, contract_http as contract, record};
use crate::link::WINDOW_BYTES;
use crate::link::proto::Failure;
use crate::node::Node;
use crate::occasion::Occasion;

/// What a header takes in the guest's memory beside its name and its value.
const PAIR_BYTES: usize = 16;

impl contract::Host for Surroundings {
    async fn fetch(
        &mut self,
        request: contract::Request,
    ) -> Result<contract::Response, ActorError> {
        let given = Duration::from_millis(request.timeout_ms.into());
        let (limit, occasion) = (self.message_limit, self.occasion);
        let fetched = fetched(&self.node, request, given, limit, occasion);
        let fetched = if given.is_zero() {
            fetched.await
        } else {
            let late = |_| {
                let message = format!("no whole response within {} ms", given.as_millis());
                Err(Failure::actor("http-response-timeout", message))
            };
            timeout(given, fetched).await.unwrap_or_else(late)
        };
        fetched.map_err(|mut failure| {
            if !failure.hint.is_empty() {
                failure.message = format!("{} ({})", failure.message, failure.hint);
            }
            record(failure)
        })
    }
}

/// Send a request and return the response, which with its headers is at most this long.
async fn fetched(
    node: &Node,
    request: contract::Request,
    given: Duration,
    limit: usize,
    occasion: Occasion,
) -> Result<contract::Response, Failure> {
    let (first, request) = split(request)?;
    let request = request.map(|rest| Full::new(rest).map_err(Error::from).boxed_unsync());
    let timeout_ns = given.as_nanos() as u64;
    let (response, upload) = begin(node, request, first, timeout_ns, occasion).await?;
    let (parts, body) = response.into_parts();
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    let taken: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + PAIR_BYTES)
        .sum();
    let mut whole = Box::pin(collected(body, limit.saturating_sub(taken), limit));
    let body = tokio::select! {
        biased;
        whole = whole.as_mut() => whole,
        _ = Box::into_pin(upload) => whole.await,
    }?;
    Ok(contract::Response {
        status: parts.status.as_u16(),
        headers,
        body,
    })
}

/// Return what is sent of the body with the head, and the request with the rest.
fn split(request: contract::Request) -> Result<(Bytes, Request<Bytes>), Failure> {
    let uri: Uri = request.url.parse().map_err(|_| not_absolute())?;
    if uri.authority().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(not_absolute());
    }
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| {
        let message = format!("not a method: {}", request.method);
        Failure::actor("http-request-method-invalid", message)
    })?;
    let body = Bytes::from(request.body);
    let length = body.len();
    let (first, rest) = if length <= WINDOW_BYTES {
        (body, Bytes::new())
    } else {
        (Bytes::new(), body)
    };
    let is_split = !rest.is_empty();
    let mut split = Request::new(rest);
    *split.method_mut() = method;
    *split.uri_mut() = uri;
    for (name, value) in request.headers {
        let not_a_header = || {
            let message = format!("not a header: {name}");
            Failure::actor("http-protocol-error", message)
        };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| not_a_header())?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| not_a_header())?;
        let headers = split.headers_mut();
        headers.try_append(key, value).map_err(|_| not_a_header())?;
    }
    if is_split {
        let headers = split.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok((first, split))
}

fn not_absolute() -> Failure {
    let message = "the URL is not an absolute one of http or https";
    Failure::actor("http-request-uri-invalid", message)
}

async fn collected(mut body: Incoming, room: usize, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::actor(TERMINATED, "the response broke off"))?;
        let piece = frame.into_data().unwrap_or_default();
        if whole.len() + piece.len() > room {
            let message = format!("the response is over the limit of {limit} bytes");
            return Err(Failure::actor("http-response-body-size", message)
                .hint("limits.message_bytes of the node is that limit"));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}
