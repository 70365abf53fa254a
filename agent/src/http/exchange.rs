//! One request to a component and its response, which is sent as the component makes it.
//!
//! The component and the sending take turns in one task: what the component has written when it waits
//! for something is sent then, so that an event is not kept, and a short response is one frame.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};
use wasmtime_wasi_http::WasiBody;

use super::heads::head_of_response;
use super::transfer::Transfer;
use crate::deadline::{Spent, Stopwatch};
use crate::link::connection::Connection;
use crate::link::proto::{Part, Reply, Response, ResponseHead, from_agent::Frame};

/// This much of a body is sent at once, if there is as much.
const PART_BYTES: usize = 64 * 1024;

/// How often the component and the sending take turns before others get theirs.
const TURNS: usize = 64;

/// The response of a component, or the name and the text of its error.
pub(crate) type Answered = Result<http::Response<WasiBody>, String>;

/// How an exchange ended.
pub(crate) enum Ended<T> {
    /// The component returned, and its response was complete.
    Complete(T),
    /// The component returned without a complete response.
    Incomplete(T),
    /// The component answered with an error of its own.
    Refused(String),
    /// Its time was over.
    TimedOut,
    /// Nobody waits for the response any more.
    Cancelled,
}

/// The response to one request, on its way.
pub(crate) struct Exchange {
    id: u64,
    connection: Connection,
    transfer: Arc<Transfer>,
    queue: Duration,
    stage: Stage,
    /// The head, until it is sent.
    head: Option<ResponseHead>,
    /// Of the body, not sent yet.
    pieces: Vec<Bytes>,
    collected: usize,
    /// The rest of a piece that was more than may be sent.
    rest: Bytes,
    has_begun: bool,
    /// The end of the body was told ahead of the Reply.
    is_told: bool,
    /// Notified when nothing more is taken of the body.
    taken: Arc<Notify>,
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

enum Stage {
    Waiting(oneshot::Receiver<Answered>),
    Body(WasiBody),
    Over,
    /// The response will not be complete.
    Broken,
    Refused(String),
}

impl Exchange {
    /// Answer the `Invoke` with this id by what `answered` will give; it waited for `queue`.
    pub(crate) fn new(
        id: u64,
        connection: Connection,
        transfer: Arc<Transfer>,
        queue: Duration,
        answered: oneshot::Receiver<Answered>,
    ) -> Self {
        Self {
            id,
            connection,
            transfer,
            queue,
            stage: Stage::Waiting(answered),
            head: None,
            pieces: Vec::new(),
            collected: 0,
            rest: Bytes::new(),
            has_begun: false,
            is_told: false,
            taken: Arc::default(),
            room: None,
        }
    }

    /// Notified when the body is over, whether it is complete or not.
    pub(crate) fn taken(&self) -> Arc<Notify> {
        Arc::clone(&self.taken)
    }

    /// Whether the head was sent: then a failure cannot be told any more.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Run the component until it has returned and its response was sent, except for the Reply.
    ///
    /// It has `timeout` until the head of its response is there, beginning again with each part of the
    /// request, and as long for what it does when its response is complete.
    pub(crate) async fn run<T, E>(
        &mut self,
        guest: impl Future<Output = Result<T, E>>,
        stopwatch: &mut Stopwatch,
        timeout: Duration,
        deadline: Instant,
    ) -> Ended<Result<T, E>> {
        let mut guest = pin!(guest);
        let mut returned = None;
        let mut late = pin!(sleep_until(deadline));
        let mut is_after = false;
        std::future::poll_fn(|context| {
            if self.transfer.is_cancelled(context) {
                return Poll::Ready(Ended::Cancelled);
            }
            let mut turns = 0;
            loop {
                if returned.is_none()
                    && let Poll::Ready(result) = stopwatch.poll(guest.as_mut(), context)
                {
                    if result.is_err() {
                        return Poll::Ready(Ended::Incomplete(result));
                    }
                    returned = Some(result);
                }
                if self.collected >= PART_BYTES {
                    self.flush(stopwatch.spent());
                }
                let has_moved = self.take(context);
                if let Stage::Refused(why) = &mut self.stage {
                    return Poll::Ready(Ended::Refused(std::mem::take(why)));
                }
                if matches!(self.stage, Stage::Over | Stage::Broken)
                    && let Some(result) = returned.take()
                {
                    return Poll::Ready(match self.stage {
                        Stage::Over => Ended::Complete(result),
                        _ => Ended::Incomplete(result),
                    });
                }
                turns += 1;
                if !has_moved {
                    break;
                }
                if turns > TURNS {
                    context.waker().wake_by_ref();
                    break;
                }
            }
            self.flush(stopwatch.spent());
            if self.is_told && !is_after {
                is_after = true;
                late.as_mut().reset(Instant::now() + timeout);
            }
            if is_after || matches!(self.stage, Stage::Waiting(_)) {
                while late.as_mut().poll(context).is_ready() {
                    let touched = self.transfer.touched() + timeout;
                    if is_after || touched <= Instant::now() {
                        return Poll::Ready(Ended::TimedOut);
                    }
                    late.as_mut().reset(touched);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Send the Reply to a complete response.
    pub(crate) fn reply(&mut self, spent: Spent) {
        if self.collected > PART_BYTES {
            self.flush(spent);
        }
        let body = self.drain();
        let reply = Reply {
            id: self.id,
            failure: None,
            compute_ns: spent.compute.as_nanos() as u64,
            wait_ns: spent.wait.as_nanos() as u64,
            queue_ns: self.queue.as_nanos() as u64,
            response: self.head.take(),
        };
        if reply.response.is_none() && !self.is_told {
            self.part(body, true);
            self.connection.send(Frame::Reply(reply), Bytes::new());
        } else {
            self.connection.send(Frame::Reply(reply), body);
        }
    }

    /// Take what there is of the response, as much as may be sent. Returns whether there was anything.
    fn take(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.stage {
            Stage::Waiting(answered) => match Pin::new(answered).poll(context) {
                Poll::Pending => false,
                Poll::Ready(Ok(Ok(response))) => {
                    let (parts, body) = response.into_parts();
                    self.head = Some(head_of_response(&parts));
                    self.stage = Stage::Body(body);
                    true
                }
                Poll::Ready(Ok(Err(why))) => {
                    self.stage = Stage::Refused(why);
                    true
                }
                Poll::Ready(Err(_)) => self.over(Stage::Broken),
            },
            Stage::Body(_) => self.take_body(context),
            _ => false,
        }
    }

    fn take_body(&mut self, context: &mut Context<'_>) -> bool {
        if !self.has_room(context) {
            return false;
        }
        let mut has_moved = false;
        // Also if nothing may be sent: the next may be the end.
        if self.rest.is_empty() {
            has_moved = true;
            let Stage::Body(body) = &mut self.stage else {
                return false;
            };
            match Pin::new(body).poll_frame(context) {
                Poll::Pending => return false,
                Poll::Ready(None) => return self.over(Stage::Over),
                Poll::Ready(Some(Err(_))) => return self.over(Stage::Broken),
                // Trailers are not passed on.
                Poll::Ready(Some(Ok(frame))) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
        let allowed = self
            .transfer
            .allowed(context)
            .saturating_sub(self.collected);
        let room = allowed.min(self.rest.len());
        if room > 0 {
            self.pieces.push(self.rest.split_to(room));
            self.collected += room;
            has_moved = true;
        }
        has_moved
    }

    fn over(&mut self, stage: Stage) -> bool {
        self.stage = stage;
        self.taken.notify_one();
        true
    }

    fn has_room(&mut self, context: &mut Context<'_>) -> bool {
        if self.room.is_none() && self.connection.has_room() {
            return true;
        }
        let connection = self.connection.clone();
        let room = self
            .room
            .get_or_insert_with(|| Box::pin(async move { connection.room().await }));
        if room.as_mut().poll(context).is_pending() {
            return false;
        }
        self.room = None;
        true
    }

    /// Send what there is of the response.
    fn flush(&mut self, spent: Spent) {
        let is_over = matches!(self.stage, Stage::Over);
        if self.is_told || matches!(self.stage, Stage::Waiting(_) | Stage::Refused(_)) {
            return;
        }
        if self.head.is_none() && self.collected == 0 && !is_over {
            return;
        }
        let body = self.drain();
        self.is_told = is_over;
        match self.head.take() {
            None => self.part(body, is_over),
            head => {
                let response = Response {
                    id: self.id,
                    head,
                    last: is_over,
                    compute_ns: spent.compute.as_nanos() as u64,
                    wait_ns: spent.wait.as_nanos() as u64,
                    queue_ns: self.queue.as_nanos() as u64,
                };
                self.has_begun = true;
                self.connection.send(Frame::Response(response), body);
            }
        }
    }

    fn part(&self, body: Bytes, last: bool) {
        let part = Part {
            id: self.id,
            last,
            ..Part::default()
        };
        self.connection.send(Frame::Part(part), body);
    }

    fn drain(&mut self) -> Bytes {
        self.transfer.sent(self.collected);
        let collected = std::mem::take(&mut self.collected);
        let mut pieces = std::mem::take(&mut self.pieces);
        if pieces.len() == 1 {
            return pieces.pop().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(collected);
        for piece in pieces {
            all.extend_from_slice(&piece);
        }
        all.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use tokio::sync::mpsc;
    use wasmtime::Engine;

    use super::*;
    use crate::deadline::Ticker;
    use crate::http::transfer::{Key, Transfers};
    use crate::link::WINDOW_BYTES;
    use crate::link::proto::Window;
    use crate::testing::NodeEnd;

    const LONG: Duration = Duration::from_hours(1);

    struct Case {
        node: NodeEnd,
        transfers: Arc<Transfers>,
        exchange: Exchange,
        stopwatch: Stopwatch,
        answered: Option<oneshot::Sender<Answered>>,
        // The request, which is not read.
        _body: crate::http::transfer::Incoming,
    }

    impl Case {
        fn new() -> Self {
            let node = NodeEnd::new();
            let transfers = Arc::new(Transfers::default());
            let body = transfers.begin(Key::Invoke(7), &node.connection);
            let transfer = Arc::clone(body.transfer());
            let (sender, receiver) = oneshot::channel();
            let connection = node.connection.clone();
            let exchange = Exchange::new(7, connection, transfer, Duration::ZERO, receiver);
            let engine = Engine::default();
            let ticker = Ticker::start(engine).expect("a ticker");
            Self {
                exchange,
                stopwatch: Stopwatch::start(&ticker),
                answered: Some(sender),
                node,
                transfers,
                _body: body,
            }
        }
    }

    fn whole(bytes: Vec<u8>) -> WasiBody {
        let body = Full::new(Bytes::from(bytes));
        body.map_err(|never: Infallible| match never {})
            .boxed_unsync()
    }

    /// A body of what is sent to it.
    struct Channel(mpsc::UnboundedReceiver<Bytes>);

    impl Body for Channel {
        type Data = Bytes;
        type Error = wasmtime_wasi_http::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            let piece = self.0.poll_recv(context);
            piece.map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
        }
    }

    fn channel() -> (mpsc::UnboundedSender<Bytes>, WasiBody) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Channel(receiver).boxed_unsync())
    }

    async fn run<T>(
        case: &mut Case,
        guest: impl Future<Output = Result<T, Infallible>>,
    ) -> Ended<Result<T, Infallible>> {
        let deadline = Instant::now() + LONG;
        let Case {
            exchange,
            stopwatch,
            ..
        } = case;
        exchange.run(guest, stopwatch, LONG, deadline).await
    }

    #[tokio::test]
    async fn a_short_response_is_one_frame() {
        let mut case = Case::new();
        let answered = case.answered.take().expect("a sender");
        let guest = async move {
            let _ = answered.send(Ok(http::Response::new(whole(b"hello".to_vec()))));
            Ok::<_, Infallible>(())
        };
        assert!(matches!(run(&mut case, guest).await, Ended::Complete(_)));
        case.exchange.reply(Spent::default());
        let (Frame::Reply(reply), body) = case.node.next().await else {
            panic!("no reply");
        };
        assert_eq!(reply.id, 7);
        assert_eq!(reply.response.map(|head| head.status), Some(200));
        assert_eq!(&body[..], b"hello");
        case.node.expect_nothing().await;
    }

    #[tokio::test]
    async fn an_event_is_sent_while_the_component_waits_for_the_next() {
        let mut case = Case::new();
        let answered = case.answered.take().expect("a sender");
        let (events, body) = channel();
        let (go, gone) = oneshot::channel::<()>();
        let guest = async move {
            let _ = answered.send(Ok(http::Response::new(body)));
            let _ = events.send(Bytes::from_static(b"one"));
            let _ = gone.await;
            let _ = events.send(Bytes::from_static(b"two"));
            Ok::<_, Infallible>(())
        };
        let Case {
            exchange,
            stopwatch,
            node,
            ..
        } = &mut case;
        let deadline = Instant::now() + LONG;
        let running = exchange.run(guest, stopwatch, LONG, deadline);
        let reading = async {
            let (Frame::Response(begun), first) = node.next().await else {
                panic!("no response");
            };
            assert!(!begun.last);
            assert_eq!(&first[..], b"one");
            let _ = go.send(());
        };
        let (ended, ()) = tokio::join!(running, reading);
        assert!(matches!(ended, Ended::Complete(_)));
        case.exchange.reply(Spent::default());
        let (Frame::Part(part), second) = case.node.next().await else {
            panic!("no part");
        };
        assert!(part.last);
        assert_eq!(&second[..], b"two");
        assert!(matches!(case.node.next().await.0, Frame::Reply(_)));
    }

    #[tokio::test]
    async fn no_more_is_sent_than_the_node_allows() {
        let mut case = Case::new();
        let answered = case.answered.take().expect("a sender");
        let size = WINDOW_BYTES + 1000;
        let guest = async move {
            let _ = answered.send(Ok(http::Response::new(whole(vec![1; size]))));
            Ok::<_, Infallible>(())
        };
        let transfers = Arc::clone(&case.transfers);
        let Case {
            exchange,
            stopwatch,
            node,
            ..
        } = &mut case;
        let deadline = Instant::now() + LONG;
        let running = exchange.run(guest, stopwatch, LONG, deadline);
        let reading = async {
            let mut read = 0;
            while read < WINDOW_BYTES {
                read += node.next().await.1.len();
            }
            assert_eq!(read, WINDOW_BYTES);
            node.expect_nothing().await;
            transfers.window(&Window {
                id: 7,
                of_fetch: false,
                bytes: 1000,
            });
        };
        let (ended, ()) = tokio::join!(running, reading);
        assert!(matches!(ended, Ended::Complete(_)));
        case.exchange.reply(Spent::default());
        assert_eq!(case.node.next().await.1.len(), 1000);
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_component() {
        let mut case = Case::new();
        let guest = std::future::pending::<Result<(), Infallible>>();
        let transfers = Arc::clone(&case.transfers);
        let (ended, ()) = tokio::join!(run(&mut case, guest), async { transfers.cancel(7) });
        assert!(matches!(ended, Ended::Cancelled));
    }

    #[tokio::test]
    async fn a_component_that_does_not_begin_its_response_is_out_of_time() {
        let mut case = Case::new();
        let guest = std::future::pending::<Result<(), Infallible>>();
        let Case {
            exchange,
            stopwatch,
            ..
        } = &mut case;
        let ended = exchange.run(guest, stopwatch, Duration::ZERO, Instant::now());
        assert!(matches!(ended.await, Ended::TimedOut));
        assert!(!case.exchange.has_begun());
    }

    #[tokio::test]
    async fn a_component_without_a_response_is_incomplete() {
        let mut case = Case::new();
        drop(case.answered.take());
        let guest = async { Ok(()) };
        assert!(matches!(run(&mut case, guest).await, Ended::Incomplete(_)));
        assert!(!case.exchange.has_begun());
    }
}
