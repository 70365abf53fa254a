//! The agent's end of the link: connects to the node, serves its requests, and connects again if it
//! can.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::application::{Ending, fail, goodbye, refuse};
use crate::arriving::Arriving;
use crate::http::service::Request;
use crate::http::transfer::Key;
use crate::link::connection::Connection;
use crate::link::frames::{FrameBuffer, LinkBroken, Received};
use crate::link::proto::{
    Failure, Hello, Invoke, Load, Measured, Welcome, from_agent::Frame, from_node, load::Kind,
};
use crate::link::stream::Stream;
use crate::link::{GENERATION, MAX_MESSAGE_LIMIT_BYTES};
use crate::loading::{Around, Loading};
use crate::machine::Machine;
use crate::mailbox::{Message, Stop};
use crate::node::Node;
use crate::program::does_not_load;
use crate::runner::{Runner, Stack};
use crate::settings::ENGINE;
use crate::trap::mib;

const READ_BYTES: usize = 64 * 1024;

/// Waits before each attempt to connect again; the last one applies from then on.
const REDIAL: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// How much memory a message takes while it is handled, in multiples of its length: itself, the
/// application's copy, and a reply as long.
const COPIES: usize = 3;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// The stream broke or was closed.
    #[error("the link to the node ended: {0}")]
    Stream(#[from] io::Error),
    /// The bytes received were not a frame.
    #[error("the link to the node is broken: {0}")]
    Broken(#[from] LinkBroken),
    /// The node refused this agent.
    #[error("the node refused this agent: {0}")]
    Refused(String),
    /// The application was stopped and nothing is left to do.
    #[error("stopped")]
    Stopped,
    /// The actor cannot be restarted here: the node has to start another machine.
    #[error("{0}")]
    GivenUp(String),
}

/// Serves one node for the life of the machine.
pub(crate) struct Agent {
    machine: Arc<Machine>,
    runner: Runner,
    connection: Connection,
    node: Arc<Node>,
    message_limit: usize,
    /// The parts received of the state that the next `Load` starts from.
    state: Arriving,
    loaded: Option<Loading>,
    ending: Arc<Ending>,
}

impl Agent {
    /// Create an agent that has not connected yet. Must be called inside a runtime.
    pub(crate) fn new(machine: Machine, runner: Runner) -> Self {
        let connection = Connection::default();
        Self {
            machine: Arc::new(machine),
            runner,
            node: Arc::new(Node::new(connection.clone())),
            connection,
            message_limit: MAX_MESSAGE_LIMIT_BYTES,
            state: Arriving::default(),
            loaded: None,
            ending: Arc::default(),
        }
    }

    /// Serve until the node has stopped this agent or the link is lost for good. Returns why.
    pub(crate) async fn run(mut self) -> (Arc<Machine>, Ended) {
        let mut attempt = 0;
        loop {
            sleep(REDIAL[attempt.min(REDIAL.len() - 1)]).await;
            attempt += 1;
            let ended = match self.machine.dial().await {
                Ok(stream) => self.serve(Arc::new(stream), &mut attempt).await,
                Err(error) => Ended::Stream(error),
            };
            self.connection.close();
            self.node.lost();
            let is_done = matches!(ended, Ended::Stopped | Ended::GivenUp(_));
            if is_done || !self.machine.redials() {
                return (self.machine, ended);
            }
        }
    }

    async fn serve(&mut self, stream: Arc<Stream>, attempt: &mut usize) -> Ended {
        self.connection.open(Arc::clone(&stream));
        let hello = Hello {
            generation: GENERATION,
            vm_id: self.machine.vm_id().to_owned(),
            engine: ENGINE.to_owned(),
            application: self.loaded.as_ref().map_or("", |app| &app.name).to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.connection.send(Frame::Hello(hello), Bytes::new());
        let (connection, ending) = (self.connection.clone(), Arc::clone(&self.ending));
        tokio::select! {
            biased;
            ended = ending.told() => ended.map_or_else(Ended::GivenUp, |()| Ended::Stopped),
            ended = connection.write_out() => match ended {
                Ok(()) => Ended::Stream(io::ErrorKind::ConnectionAborted.into()),
                Err(error) => Ended::Stream(error),
            },
            ended = self.read(&stream, attempt) => ended,
        }
    }

    async fn read(&mut self, stream: &Stream, attempt: &mut usize) -> Ended {
        let mut buffer = FrameBuffer::default();
        loop {
            loop {
                match buffer.next(|length| self.fits(length)) {
                    Ok(Some(received)) => {
                        if let Err(ended) = self.dispatch(received) {
                            return ended;
                        }
                        *attempt = 0;
                    }
                    Ok(None) => break,
                    Err(broken) => return broken.into(),
                }
            }
            match stream.read(buffer.room(READ_BYTES)).await {
                Ok(0) => return Ended::Stream(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// Whether there is enough memory to handle a message of this length.
    fn fits(&self, length: usize) -> bool {
        let left = self.machine.available();
        left.is_none_or(|left| COPIES * length <= left)
    }

    fn dispatch(&mut self, received: Received) -> Result<(), Ended> {
        let Received {
            frame,
            body,
            refused,
        } = received;
        match frame {
            from_node::Frame::Welcome(welcome) => self.welcome(&welcome)?,
            from_node::Frame::Invoke(invoke) => self.invoke(invoke, body, refused),
            from_node::Frame::Answer(mut answer) => {
                if let Some(length) = refused {
                    answer.failure = Some(self.no_memory(length));
                }
                self.node.answered(answer, body);
            }
            from_node::Frame::Cancel(cancel) => {
                let mailbox = self.loaded.as_ref().map(|app| &app.mailbox);
                if let Some(message) = mailbox.and_then(|mailbox| mailbox.cancel(cancel.id)) {
                    let left = "the sender no longer waits for this message";
                    let failure = Failure::platform("deadline_exceeded", left);
                    let queue = message.arrived.elapsed();
                    refuse(&self.connection, message.id, failure, queue);
                } else {
                    self.node.transfers().cancel(cancel.id);
                }
            }
            from_node::Frame::Response(response) => self.node.transfers().response(response, body),
            from_node::Frame::Part(part) => self.node.transfers().part(&part, body),
            from_node::Frame::Window(window) => self.node.transfers().window(&window),
            from_node::Frame::State(_) => self.state.add(&body, refused.is_some()),
            from_node::Frame::Load(load) => {
                let id = load.id;
                if let Err(failure) = self.load(&load) {
                    fail(&self.connection, id, failure);
                }
            }
            from_node::Frame::Kept(kept) => {
                if let Some(saver) = self.loaded.as_ref().and_then(|app| app.saver.as_ref()) {
                    saver.kept(kept);
                }
            }
            from_node::Frame::Measure(measure) => match self.machine.measure() {
                Ok(memory) => {
                    let measured = Measured {
                        id: measure.id,
                        guest: memory.guest,
                        total_bytes: memory.total_bytes,
                        used_bytes: memory.used_bytes,
                        available_bytes: memory.available_bytes,
                    };
                    self.connection
                        .send(Frame::Measured(measured), Bytes::new());
                }
                Err(failure) => fail(&self.connection, measure.id, failure),
            },
            from_node::Frame::Stop(stop) => {
                let stop = Stop {
                    id: stop.id,
                    timeout: Duration::from_nanos(stop.timeout_ns),
                };
                match &self.loaded {
                    Some(app) => app.mailbox.stop(stop),
                    None => {
                        let (connection, ending) = (self.connection.clone(), self.ending.clone());
                        tokio::spawn(async move {
                            goodbye(&connection, stop.id).await;
                            ending.tell(Ok(()));
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn welcome(&mut self, welcome: &Welcome) -> Result<(), Ended> {
        if !welcome.refused.is_empty() {
            return Err(Ended::Refused(welcome.refused.clone()));
        }
        if welcome.generation != GENERATION {
            let theirs = welcome.generation;
            return Err(Ended::Refused(format!(
                "it speaks generation {theirs} of the link, this agent {GENERATION}"
            )));
        }
        let limit = usize::try_from(welcome.message_limit).unwrap_or(usize::MAX);
        self.message_limit = limit.min(MAX_MESSAGE_LIMIT_BYTES);
        self.machine.wake(welcome.time_unix_ns, &welcome.seed);
        if let Some(saver) = self.loaded.as_ref().and_then(|app| app.saver.as_ref()) {
            saver.resend();
        }
        Ok(())
    }

    fn invoke(&self, invoke: Invoke, payload: Bytes, refused: Option<usize>) {
        let arrived = Instant::now();
        let (request, payload) = match invoke.request {
            None => (None, payload),
            Some(head) => {
                let key = Key::Invoke(invoke.id);
                let body = self.node.transfers().begin(key, &self.connection);
                body.first(payload, head.more);
                (Some(Box::new(Request::new(head, body))), Bytes::new())
            }
        };
        let message = Message {
            id: invoke.id,
            sender: invoke.sender,
            kind: invoke.r#type,
            payload,
            request,
            traceparent: invoke.traceparent,
            arrived,
            deadline: arrived + Duration::from_nanos(invoke.timeout_ns),
        };
        let id = message.id;
        let refusal = match (&self.loaded, refused) {
            (_, Some(length)) => self.no_memory(length),
            (None, None) => Failure::platform("wrong_state", "no application is loaded"),
            (Some(app), None) if app.handles_requests != message.request.is_some() => {
                let what = if app.handles_requests {
                    "the application handles HTTP requests, not messages"
                } else {
                    "the application handles messages, not HTTP requests"
                };
                Failure::platform("invalid_argument", what)
            }
            (Some(app), None) => match app.mailbox.post(message) {
                Ok(()) => return,
                Err(failure) => failure,
            },
        };
        refuse(&self.connection, id, refusal, Duration::ZERO);
    }

    fn no_memory(&self, length: usize) -> Failure {
        let needed = mib(COPIES * length);
        let room = self.machine.available().map_or(0, mib);
        let message = format!(
            "a message of {length} bytes needs {needed} MiB of memory while it is handled, but the VM \
             has only {room} MiB left"
        );
        Failure::platform("resource_exhausted", message)
            .hint("deploy with more memory (--memory MIB), or send it in parts")
            .retryable()
    }

    fn load(&mut self, load: &Load) -> Result<(), Failure> {
        if let Some(app) = &self.loaded {
            let message = format!("this VM already runs {:?}", app.name);
            return Err(Failure::platform("wrong_state", message));
        }
        let state = self.state.take(load.state_bytes)?;
        if load.kind() != Kind::Actor {
            self.runner =
                Runner::start(Stack::OfCommand, false).map_err(|error| does_not_load(&error))?;
        }
        let around = Around {
            runner: &self.runner,
            node: &self.node,
            message_limit: self.message_limit,
            ending: &self.ending,
        };
        self.loaded = Some(Loading::begin(&self.machine, &around, load, state)?);
        Ok(())
    }
}
