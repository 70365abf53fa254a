//! What an actor can ask its host for: logging, keyvalue and messaging, each a request to the node. For
//! HTTP see `http::whole`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::bounds::Bounds;
use crate::http::fetch::Hooks;
use crate::link::CODE_BYTES;
use crate::link::proto::failure::Origin;
use crate::link::proto::from_agent::Frame;
use crate::link::proto::log::{Level, Stream};
use crate::link::proto::{Ask, Delete, Failure, Get, Put, Tell};
use crate::node::Node;
use crate::occasion::Occasion;
use crate::output::line_of;

wasmtime::component::bindgen!({
    path: "../wit",
    world: "application-with-http",
    imports: { default: async },
    exports: { default: async },
});

pub(crate) use self::{
    ApplicationWithHttp as Application, ApplicationWithHttpPre as ApplicationPre,
};
pub(crate) use plexspaces::application::http as contract_http;
pub(crate) use plexspaces::application::types::ActorError;
use plexspaces::application::{keyvalue, logging, messaging, types};

const KEY_BYTES: usize = 512;

/// Space for whatever else crosses to the host beside the longest payload.
const CROSSING_BYTES: usize = 1024 * 1024;

/// The data of one store, for actors and commands. One type for all, because the code that links
/// WASI is compiled once per type.
pub(crate) struct Surroundings {
    /// The WASI context, for all versions.
    pub(crate) wasi: WasiP1Ctx,
    /// The store's limits.
    pub(crate) bounds: Bounds,
    /// Where host calls are sent.
    pub(crate) node: Arc<Node>,
    /// The longest message, in bytes.
    pub(crate) message_limit: usize,
    /// The deadline of the current call: no host call waits beyond it.
    pub(crate) deadline: Instant,
    /// What the current call is for.
    pub(crate) occasion: Occasion,
    http: WasiHttpCtx,
    hooks: Hooks,
}

impl WasiView for Surroundings {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for Surroundings {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: self.wasi.ctx().table,
            hooks: &mut self.hooks,
        }
    }
}

impl Surroundings {
    /// Put together the data of one store.
    pub(crate) fn new(
        wasi: WasiP1Ctx,
        bounds: Bounds,
        node: Arc<Node>,
        message_limit: usize,
        deadline: Instant,
        occasion: Occasion,
    ) -> Self {
        Self {
            wasi,
            bounds,
            hooks: Hooks::new(Arc::clone(&node), occasion),
            http: WasiHttpCtx::new(),
            node,
            message_limit,
            deadline,
            occasion,
        }
    }

    /// Begin the next call of the instance.
    pub(crate) fn begin(&mut self, deadline: Instant, occasion: Occasion) {
        self.deadline = deadline;
        self.occasion = occasion;
        self.hooks.begin(occasion);
    }

    /// Create a store for one instance with this data.
    pub(crate) fn store(self, engine: &Engine) -> Store<Self> {
        // The limit of what crosses to the host at once: a state can be as long as the memory that
        // holds it.
        let crossing = self.bounds.limit().saturating_add(CROSSING_BYTES);
        let mut store = Store::new(engine, self);
        store.set_hostcall_fuel(crossing);
        store.limiter(|surroundings| &mut surroundings.bounds);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        store
    }
}

/// Creates linkers for components: WASI 0.2 and 0.3, and the interfaces of the contract.
pub(crate) struct Linkers {
    engine: Engine,
    /// The linker that suits most components, created before one is known.
    ready: Option<Linker<Surroundings>>,
}

impl Linkers {
    /// Create none yet, or with `ahead` the one that suits most components, so that copies of a
    /// machine have it.
    pub(crate) fn new(engine: &Engine, ahead: bool) -> wasmtime::Result<Self> {
        let engine = engine.clone();
        let ready = ahead.then(|| made(&engine, Wanted::MOST)).transpose()?;
        Ok(Self { engine, ready })
    }

    /// Create a linker with everything that a component imports, as far as it exists.
    ///
    /// And nothing else: on an emulated CPU, linking everything takes a tenth of the time from the
    /// machine's first instruction to its first reply.
    pub(crate) fn of(&self, component: &Component) -> wasmtime::Result<Linker<Surroundings>> {
        let wanted = Wanted::by(component, &self.engine);
        match &self.ready {
            Some(ready) if wanted.is_of_most() => Ok(ready.clone()),
            _ => made(&self.engine, wanted),
        }
    }
}

/// What a component imports.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // One each: they are independent.
struct Wanted {
    wasi_0_2: bool,
    wasi_0_3: bool,
    http_0_2: bool,
    http_0_3: bool,
    contract: bool,
}

impl Wanted {
    const MOST: Self = Self {
        wasi_0_2: true,
        wasi_0_3: false,
        http_0_2: false,
        http_0_3: false,
        contract: true,
    };

    fn is_of_most(self) -> bool {
        !(self.wasi_0_3 || self.http_0_2 || self.http_0_3)
    }

    fn by(component: &Component, engine: &Engine) -> Self {
        let mut wanted = Self::default();
        for (name, _) in component.component_type().imports(engine) {
            let is_0_3 = name.contains("@0.3.");
            match name.split_once('/').map(|(package, _)| package) {
                Some("wasi:http") if is_0_3 => wanted.http_0_3 = true,
                Some("wasi:http") => wanted.http_0_2 = true,
                Some(package) if package.starts_with("wasi:") && is_0_3 => wanted.wasi_0_3 = true,
                Some(package) if package.starts_with("wasi:") => wanted.wasi_0_2 = true,
                _ => wanted.contract = true,
            }
        }
        wanted
    }
}

fn made(engine: &Engine, wanted: Wanted) -> wasmtime::Result<Linker<Surroundings>> {
    let mut linker = Linker::new(engine);
    if wanted.wasi_0_2 {
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    }
    if wanted.wasi_0_3 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    }
    if wanted.http_0_2 {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    }
    if wanted.http_0_3 {
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    if wanted.contract {
        Application::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    }
    Ok(linker)
}

impl types::Host for Surroundings {}

impl logging::Host for Surroundings {
    async fn log(&mut self, level: logging::Level, message: String) {
        let level = match level {
            logging::Level::Trace => Level::Trace,
            logging::Level::Debug => Level::Debug,
            logging::Level::Info => Level::Info,
            logging::Level::Warn => Level::Warn,
            logging::Level::Error => Level::Error,
        };
        let connection = self.node.connection();
        connection.room().await;
        connection.log(line_of(Stream::Log, level, message, self.occasion.trace));
    }
}

impl keyvalue::Host for Surroundings {
    async fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, String> {
        checked_key(&key)?;
        let invoke = self.occasion.invoke;
        let get = |id| Frame::Get(Get { id, key, invoke });
        let (found, value) = self.node.ask(get, Bytes::new()).await.map_err(text)?;
        Ok(found.then(|| value.into()))
    }

    async fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        checked_key(&key)?;
        if value.len() > self.message_limit {
            let (size, limit) = (value.len(), self.message_limit);
            return Err(format!(
                "a value of {size} bytes is over the limit of {limit}"
            ));
        }
        let invoke = self.occasion.invoke;
        let put = |id| Frame::Put(Put { id, key, invoke });
        self.node.ask(put, value.into()).await.map_err(text)?;
        Ok(())
    }

    async fn delete(&mut self, key: String) -> Result<(), String> {
        checked_key(&key)?;
        let invoke = self.occasion.invoke;
        let delete = |id| Frame::Delete(Delete { id, key, invoke });
        self.node.ask(delete, Bytes::new()).await.map_err(text)?;
        Ok(())
    }
}

impl messaging::Host for Surroundings {
    async fn tell(&mut self, to: String, kind: String, payload: Vec<u8>) -> Result<(), ActorError> {
        self.checked_message(&to, &kind, &payload)?;
        let invoke = self.occasion.invoke;
        let tell = |id| {
            let r#type = kind;
            Frame::Tell(Tell {
                id,
                to,
                r#type,
                invoke,
            })
        };
        self.node.ask(tell, payload.into()).await.map_err(record)?;
        Ok(())
    }

    async fn ask(
        &mut self,
        to: String,
        kind: String,
        payload: Vec<u8>,
        timeout_ms: u32,
    ) -> Result<Vec<u8>, ActorError> {
        self.checked_message(&to, &kind, &payload)?;
        let wanted = Duration::from_millis(timeout_ms.into());
        let given = wanted.min(self.deadline.saturating_duration_since(Instant::now()));
        let invoke = self.occasion.invoke;
        let ask = |id| {
            let timeout_ns = given.as_nanos() as u64;
            let r#type = kind;
            Frame::Ask(Ask {
                id,
                to,
                r#type,
                timeout_ns,
                invoke,
            })
        };
        match timeout(given, self.node.ask(ask, payload.into())).await {
            Ok(answered) => answered.map(|(_, reply)| reply.into()).map_err(record),
            Err(_) => Err(record(Failure::platform(
                "deadline_exceeded",
                "no answer within the timeout",
            ))),
        }
    }
}

impl Surroundings {
    fn checked_message(&self, to: &str, kind: &str, payload: &[u8]) -> Result<(), ActorError> {
        let message = if to.len() > CODE_BYTES || kind.len() > CODE_BYTES {
            format!(
                "the application's name or the message's type is over the limit of {CODE_BYTES} bytes"
            )
        } else if payload.len() > self.message_limit {
            let (size, limit) = (payload.len(), self.message_limit);
            format!("a message of {size} bytes is over the limit of {limit}")
        } else {
            return Ok(());
        };
        Err(record(Failure::platform("invalid_argument", message)))
    }
}

fn checked_key(key: &str) -> Result<(), String> {
    if key.len() > KEY_BYTES {
        return Err(format!("a key can be at most {KEY_BYTES} bytes long"));
    }
    Ok(())
}

fn text(failure: Failure) -> String {
    failure.message
}

/// Return the error of the contract that a failure stands for.
pub(crate) fn record(failure: Failure) -> ActorError {
    // WIT names are written with dashes; the contract promises `call-cycle`, `not-found` and so on.
    let code = match failure.origin() {
        Origin::Platform => failure.code.replace('_', "-"),
        _ => failure.code,
    };
    ActorError {
        code,
        message: failure.message,
        retryable: failure.retryable,
    }
}
