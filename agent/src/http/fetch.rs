//! Requests that applications send: the node makes them.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use super::heads::{head_of_request, response_of};
use super::transfer::{Incoming, Key, Transfer};
use crate::link::connection::Connection;
use crate::link::proto::{Failure, Fetch, Part, from_agent::Frame};
use crate::node::Node;
use crate::occasion::Occasion;

/// How much a component may write at once to a body that it sends.
const CHUNK_BYTES: usize = 64 * 1024;

/// How many of them may wait.
const CHUNKS: usize = 4;

/// The node's own limit.
const NO_TIMEOUT: u64 = 0;

/// The other end, or the link to it, is gone.
pub(super) const TERMINATED: &str = "connection-terminated";

pub(super) type Later<T> = Box<dyn Future<Output = Result<T>> + Send>;

/// What wasmtime asks about an application's requests.
pub(crate) struct Hooks {
    node: Arc<Node>,
    occasion: Occasion,
}

impl Hooks {
    /// Send requests by this node.
    pub(crate) fn new(node: Arc<Node>, occasion: Occasion) -> Self {
        Self { node, occasion }
    }

    /// Begin the next call of the application: the requests that it sends are for this.
    pub(crate) fn begin(&mut self, occasion: Occasion) {
        self.occasion = occasion;
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Later<()>,
    ) -> Later<(http::Response<WasiBody>, Later<()>)> {
        let (node, occasion) = (Arc::clone(&self.node), self.occasion);
        let options = options.unwrap_or_default();
        Box::new(async move { fetch(&node, request, options, occasion).await })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

async fn fetch(
    node: &Node,
    request: http::Request<WasiBody>,
    options: RequestOptions,
    occasion: Occasion,
) -> Result<(http::Response<WasiBody>, Later<()>)> {
    let timeout_ns = options
        .first_byte_timeout
        .map_or(NO_TIMEOUT, |timeout: Duration| timeout.as_nanos() as u64);
    let begun = begin(node, request, Bytes::new(), timeout_ns, occasion).await;
    let (response, rest) = begun.map_err(error_of)?;
    Ok((response.map(BodyExt::boxed_unsync), rest))
}

/// Send a request, which begins with `first`, and return its response when it begins, with what
/// sends the rest of the request.
pub(super) async fn begin(
    node: &Node,
    request: http::Request<WasiBody>,
    first: Bytes,
    timeout_ns: u64,
    occasion: Occasion,
) -> Result<(http::Response<Incoming>, Later<()>), Failure> {
    let (parts, body) = request.into_parts();
    let more = !body.is_end_stream();
    let connection = node.connection().clone();
    let id = node.next_id();
    let incoming = node.transfers().begin(Key::Fetch(id), &connection);
    let transfer = Arc::clone(incoming.transfer());
    let fetch = Frame::Fetch(Fetch {
        id,
        head: Some(head_of_request(parts, more)),
        timeout_ns,
        invoke: occasion.invoke,
    });
    let failed = node.answer_to(id, fetch, first);
    let begun = poll_fn(|context| transfer.poll_response(context));
    let theirs = Arc::clone(&transfer);
    let mut upload = Box::pin(async move {
        if more {
            send(body, &theirs, &connection, id).await;
        }
    });
    let mut is_sent = false;
    let until_answered = async {
        upload.as_mut().await;
        is_sent = true;
        pending::<()>().await;
    };
    let head = tokio::select! {
        biased;
        // First: it sends the head.
        failed = failed => return Err(failed.err().unwrap_or_else(malformed)),
        head = begun => head,
        () = until_answered => return Err(Failure::actor(TERMINATED, "the request ended")),
    };
    let response = response_of(head, incoming).map_err(|_| malformed())?;
    // The rest of the request is sent while the response comes.
    let rest: Later<()> = Box::new(async move {
        if !is_sent {
            upload.await;
        }
        Ok(())
    });
    Ok((response, rest))
}

fn malformed() -> Failure {
    Failure::actor("http-protocol-error", "the response is not valid HTTP")
}

/// Send a body as it comes, no faster than the node takes it.
async fn send(mut body: WasiBody, transfer: &Transfer, connection: &Connection, id: u64) {
    let part = |last, aborted| {
        Frame::Part(Part {
            id,
            of_fetch: true,
            last,
            aborted,
        })
    };
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            connection.send(part(false, true), Bytes::new());
            return;
        };
        // Trailers are not passed on.
        let mut data = frame.into_data().unwrap_or_default();
        while !data.is_empty() {
            let allowed = poll_fn(|context| match transfer.allowed(context) {
                0 => Poll::Pending,
                allowed => Poll::Ready(allowed),
            });
            let piece = data.split_to(allowed.await.min(CHUNK_BYTES).min(data.len()));
            connection.room().await;
            transfer.sent(piece.len());
            connection.send(part(false, false), piece);
        }
    }
    connection.send(part(true, false), Bytes::new());
}

/// The error of wasi:http that a failure stands for: its code is the name of one.
fn error_of(failure: Failure) -> Error {
    match failure.code.as_str() {
        "http-request-denied" => Error::HttpRequestDenied,
        "destination-ip-prohibited" => Error::DestinationIpProhibited,
        "dns-error" => Error::DnsError {
            rcode: Some(failure.message),
            info_code: None,
        },
        "dns-timeout" => Error::DnsTimeout,
        "connection-refused" => Error::ConnectionRefused,
        TERMINATED => Error::ConnectionTerminated,
        "connection-timeout" => Error::ConnectionTimeout,
        "connection-read-timeout" => Error::ConnectionReadTimeout,
        "connection-limit-reached" => Error::ConnectionLimitReached,
        "tls-certificate-error" => Error::TlsCertificateError,
        "tls-protocol-error" => Error::TlsProtocolError,
        "http-request-body-size" => Error::HttpRequestBodySize(None),
        "http-response-body-size" => Error::HttpResponseBodySize(None),
        "http-response-timeout" => Error::HttpResponseTimeout,
        "http-protocol-error" => Error::HttpProtocolError,
        _ => Error::InternalError(Some(failure.message)),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Empty;

    use super::*;
    use crate::testing::NodeEnd;

    #[tokio::test]
    async fn a_request_is_for_the_message_in_which_it_was_made() {
        let mut end = NodeEnd::new();
        let node = Arc::new(Node::new(end.connection.clone()));
        let mut hooks = Hooks::new(node, Occasion::NONE);
        let mut requests = Vec::new();
        for invoke in [0, 7, 8] {
            hooks.begin(Occasion {
                invoke,
                ..Occasion::NONE
            });
            let body = Empty::new().map_err(|never: Infallible| match never {});
            let request = http::Request::new(body.boxed_unsync());
            let sent = hooks.send_request(request, None, Box::new(async { Ok(()) }));
            requests.push((invoke, Box::into_pin(sent)));
        }
        for (invoke, sent) in &mut requests {
            let (frame, _) = tokio::select! {
                _ = sent => panic!("nobody answered"),
                next = end.next() => next,
            };
            let Frame::Fetch(fetch) = frame else {
                panic!("{frame:?}");
            };
            assert_eq!(fetch.invoke, *invoke);
        }
    }
}
