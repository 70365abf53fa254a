//! A component of wasi:http: each request gets an instance of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Engine, Error, Store};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme as Scheme02;
use wasmtime_wasi_http::p3::Request as Request03;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::exchange::{Answered, Ended, Exchange};
use super::heads::request_of;
use super::transfer::{Begun, Incoming};
use crate::application::{late, refuse, reply};
use crate::bounds::{Bounds, Pool};
use crate::deadline::{Stopwatch, Ticker};
use crate::host::{Linkers, Surroundings};
use crate::link::connection::Connection;
use crate::link::proto::{Failure, RequestHead, log::Level};
use crate::mailbox::Message;
use crate::node::Node;
use crate::occasion::Occasion;
use crate::output::Words;
use crate::program::Settings;
use crate::trap::{During, End};

/// The name of the export begins so in WASI 0.2.
const HANDLER_0_2: &str = "wasi:http/incoming-handler@0.2.";

/// How long an instance may use its node: a response can go on for as long as somebody reads it.
const A_LONG_TIME: Duration = Duration::from_hours(365 * 24);

/// An HTTP request on its way to the component.
#[derive(Debug)]
pub(crate) struct Request {
    head: RequestHead,
    body: Incoming,
    begun: Begun,
}

impl Request {
    /// Take a request whose body arrives by `body`.
    pub(crate) fn new(head: RequestHead, body: Incoming) -> Self {
        let begun = Begun::of(&body);
        Self { head, body, begun }
    }
}

/// A loaded component; it can handle many requests at a time.
pub(crate) struct Service {
    engine: Engine,
    form: Form,
    settings: Arc<Settings>,
    /// The memory of all requests that are being handled.
    pool: Arc<Pool>,
    ticker: Ticker,
    node: Arc<Node>,
}

enum Form {
    Version02(ProxyPre<Surroundings>),
    Version03(ServicePre<Surroundings>),
}

impl Service {
    /// Load a component that exports the handler of wasi:http.
    pub(crate) fn load(
        engine: &Engine,
        linkers: &Linkers,
        component: &Component,
        settings: Arc<Settings>,
        ticker: Ticker,
        node: Arc<Node>,
    ) -> wasmtime::Result<Self> {
        let pre = linkers.of(component)?.instantiate_pre(component)?;
        let kind = component.component_type();
        let is_0_2 = kind
            .exports(engine)
            .any(|(name, _)| name.starts_with(HANDLER_0_2));
        let form = if is_0_2 {
            Form::Version02(ProxyPre::new(pre)?)
        } else {
            Form::Version03(ServicePre::new(pre)?)
        };
        Ok(Self {
            engine: engine.clone(),
            form,
            pool: Pool::new(settings.memory_bytes),
            settings,
            ticker,
            node,
        })
    }

    /// Handle one request, and answer its message.
    pub(crate) async fn answer(&self, connection: &Connection, message: Message) {
        let queue = message.arrived.elapsed();
        let (id, deadline, occasion) = (message.id, message.deadline, message.occasion());
        if deadline <= Instant::now() {
            return refuse(connection, id, late(), queue);
        }
        let Some(request) = message.request else {
            let what = "the application is a component of wasi:http: it handles requests";
            let failure = Failure::platform("invalid_argument", what);
            return refuse(connection, id, failure, queue);
        };
        let Request { head, body, begun } = *request;
        let transfer = Arc::clone(body.transfer());
        let request = match request_of(head, body) {
            Ok(request) => request,
            Err(failure) => return refuse(connection, id, failure, queue),
        };
        let words = Words::new(connection.clone(), occasion.trace);
        let mut store = self.store(&words, occasion);
        let (sender, answered) = oneshot::channel();
        let mut exchange = Exchange::new(id, connection.clone(), transfer, queue, answered);
        let mut stopwatch = Stopwatch::start(&self.ticker);
        let timeout = deadline.saturating_duration_since(message.arrived);
        let ended = {
            let guest = self.call(&mut store, request, sender, &exchange);
            exchange.run(guest, &mut stopwatch, timeout, deadline).await
        };
        let spent = stopwatch.spent();
        let refused = store.data_mut().bounds.take_refused();
        drop((store, begun));
        match self.failure(ended, &words, refused) {
            None => exchange.reply(spent),
            Some(failure) => {
                if exchange.has_begun() {
                    let told = format!("the response broke off: {}", failure.message);
                    words.complain(Level::Warn, told);
                }
                reply(connection, id, Bytes::new(), Some(failure), spent, queue);
            }
        }
    }

    /// Call the component's handler; its response goes to `sender`.
    fn call<'a>(
        &'a self,
        store: &'a mut Store<Surroundings>,
        request: http::Request<Incoming>,
        sender: oneshot::Sender<Answered>,
        exchange: &Exchange,
    ) -> impl Future<Output = wasmtime::Result<()>> + use<'a> {
        let taken = exchange.taken();
        async move {
            match &self.form {
                Form::Version02(pre) => {
                    let proxy = pre.instantiate_async(&mut *store).await?;
                    let scheme = match request.uri().scheme() {
                        Some(scheme) if *scheme == Scheme::HTTPS => Scheme02::Https,
                        _ => Scheme02::Http,
                    };
                    let mut http = store.data_mut().http();
                    let request = http.new_incoming_request(scheme, request)?;
                    let out = http.new_response_outparam_from_callback(move |answered| {
                        // Nobody may wait for it any more.
                        let _ = sender.send(answered.map_err(|error| format!("{error:?}")));
                    })?;
                    let handler = proxy.wasi_http_incoming_handler();
                    handler.call_handle(store, request, out).await
                }
                Form::Version03(pre) => {
                    let service = pre.instantiate_async(&mut *store).await?;
                    let (request, _) = Request03::from_http(store.data_mut().http().hooks, request);
                    store
                        .run_concurrent(async |accessor| {
                            let answered = match service.handle(accessor, request).await? {
                                Ok(response) => Ok(accessor.with(|store| {
                                    response.into_http(store, std::future::ready(Ok(())))
                                })?),
                                Err(error) => Err(format!("{error:?}")),
                            };
                            let _ = sender.send(answered);
                            // The component goes on making the body meanwhile.
                            taken.notified().await;
                            Ok::<_, Error>(())
                        })
                        .await?
                }
            }
        }
    }

    fn failure(
        &self,
        ended: Ended<wasmtime::Result<()>>,
        words: &Words,
        refused: Option<usize>,
    ) -> Option<Failure> {
        let said = words.end_message();
        let end = End::of(&self.settings, During::Request, &said, refused);
        let error = match ended {
            Ended::Complete(_) => return None,
            Ended::Cancelled => {
                let gone = "the client left before the response was complete";
                return Some(Failure::platform("cancelled", gone));
            }
            Ended::TimedOut => return Some(end.out_of_time()),
            Ended::Refused(why) => {
                let message = format!("the component answered with the error {why}");
                return Some(Failure::trap("http-error", message));
            }
            Ended::Incomplete(Ok(())) => {
                let message = "the component returned without a complete response";
                return Some(Failure::trap("http-response-incomplete", message));
            }
            Ended::Incomplete(Err(error)) => error,
        };
        let (failure, in_full) = end.explain(&error);
        words.complain(Level::Error, in_full);
        Some(failure)
    }

    fn store(&self, words: &Words, occasion: Occasion) -> Store<Surroundings> {
        let mut wasi = WasiCtx::builder();
        wasi.args(&self.settings.args)
            .envs(&self.settings.env)
            .stdout(words.stdout())
            .stderr(words.stderr());
        let surroundings = Surroundings::new(
            wasi.build_p1(),
            Bounds::new(Arc::clone(&self.pool)),
            Arc::clone(&self.node),
            self.settings.message_limit,
            Instant::now() + A_LONG_TIME,
            occasion,
        );
        surroundings.store(&self.engine)
    }
}
