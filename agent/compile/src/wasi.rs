//! The interfaces of WASI 0.2 and 0.3 that a component can import, with the functions of each.
//!
//! They are from the WIT of the agent's release of wasmtime-wasi and wasmtime-wasi-http, without
//! those marked as unstable.
//! The agent's linker compares the functions' types when it loads a component.

/// The name of an interface without its version, and its functions.
type Interface = (&'static str, &'static str);

/// The interfaces that `add_to_linker_async` of `wasmtime_wasi::p2` and of `wasmtime_wasi_http::p2`
/// define.
const WASI_0_2: [Interface; 29] = [
    (
        "wasi:cli/environment",
        "get-environment get-arguments initial-cwd",
    ),
    ("wasi:cli/exit", "exit exit-with-code"),
    ("wasi:cli/stderr", "get-stderr"),
    ("wasi:cli/stdin", "get-stdin"),
    ("wasi:cli/stdout", "get-stdout"),
    ("wasi:cli/terminal-input", "terminal-input"),
    ("wasi:cli/terminal-output", "terminal-output"),
    ("wasi:cli/terminal-stderr", "get-terminal-stderr"),
    ("wasi:cli/terminal-stdin", "get-terminal-stdin"),
    ("wasi:cli/terminal-stdout", "get-terminal-stdout"),
    (
        "wasi:clocks/monotonic-clock",
        "now resolution subscribe-instant subscribe-duration",
    ),
    ("wasi:clocks/wall-clock", "now resolution"),
    ("wasi:filesystem/preopens", "get-directories"),
    (
        "wasi:filesystem/types",
        "[method]descriptor.read-via-stream [method]descriptor.write-via-stream \
         [method]descriptor.append-via-stream [method]descriptor.advise \
         [method]descriptor.sync-data [method]descriptor.get-flags \
         [method]descriptor.get-type [method]descriptor.set-size [method]descriptor.set-times \
         [method]descriptor.read [method]descriptor.write [method]descriptor.read-directory \
         [method]descriptor.sync [method]descriptor.create-directory-at \
         [method]descriptor.stat [method]descriptor.stat-at [method]descriptor.set-times-at \
         [method]descriptor.link-at [method]descriptor.open-at [method]descriptor.readlink-at \
         [method]descriptor.remove-directory-at [method]descriptor.rename-at \
         [method]descriptor.symlink-at [method]descriptor.unlink-file-at \
         [method]descriptor.is-same-object [method]descriptor.metadata-hash \
         [method]descriptor.metadata-hash-at \
         [method]directory-entry-stream.read-directory-entry filesystem-error-code",
    ),
    ("wasi:http/outgoing-handler", "handle"),
    (
        "wasi:http/types",
        "[constructor]fields [static]fields.from-list [method]fields.get [method]fields.has \
         [method]fields.set [method]fields.delete [method]fields.append [method]fields.entries \
         [method]fields.clone [method]incoming-request.method \
         [method]incoming-request.path-with-query [method]incoming-request.scheme \
         [method]incoming-request.authority [method]incoming-request.headers \
         [method]incoming-request.consume [constructor]outgoing-request \
         [method]outgoing-request.body [method]outgoing-request.method \
         [method]outgoing-request.set-method [method]outgoing-request.path-with-query \
         [method]outgoing-request.set-path-with-query [method]outgoing-request.scheme \
         [method]outgoing-request.set-scheme [method]outgoing-request.authority \
         [method]outgoing-request.set-authority [method]outgoing-request.headers \
         [constructor]request-options [method]request-options.connect-timeout \
         [method]request-options.set-connect-timeout [method]request-options.first-byte-timeout \
         [method]request-options.set-first-byte-timeout \
         [method]request-options.between-bytes-timeout \
         [method]request-options.set-between-bytes-timeout [static]response-outparam.set \
         [method]incoming-response.status [method]incoming-response.headers \
         [method]incoming-response.consume [method]incoming-body.stream \
         [static]incoming-body.finish [method]future-trailers.subscribe \
         [method]future-trailers.get [constructor]outgoing-response \
         [method]outgoing-response.status-code [method]outgoing-response.set-status-code \
         [method]outgoing-response.headers [method]outgoing-response.body \
         [method]outgoing-body.write [static]outgoing-body.finish \
         [method]future-incoming-response.subscribe [method]future-incoming-response.get \
         http-error-code",
    ),
    ("wasi:io/error", "error [method]error.to-debug-string"),
    (
        "wasi:io/poll",
        "[method]pollable.ready [method]pollable.block poll",
    ),
    (
        "wasi:io/streams",
        "[method]input-stream.read [method]input-stream.blocking-read \
         [method]input-stream.skip [method]input-stream.blocking-skip \
         [method]input-stream.subscribe [method]output-stream.check-write \
         [method]output-stream.write [method]output-stream.blocking-write-and-flush \
         [method]output-stream.flush [method]output-stream.blocking-flush \
         [method]output-stream.subscribe [method]output-stream.write-zeroes \
         [method]output-stream.blocking-write-zeroes-and-flush [method]output-stream.splice \
         [method]output-stream.blocking-splice",
    ),
    (
        "wasi:random/insecure",
        "get-insecure-random-bytes get-insecure-random-u64",
    ),
    ("wasi:random/insecure-seed", "insecure-seed"),
    ("wasi:random/random", "get-random-bytes get-random-u64"),
    ("wasi:sockets/instance-network", "instance-network"),
    (
        "wasi:sockets/ip-name-lookup",
        "[method]resolve-address-stream.resolve-next-address \
         [method]resolve-address-stream.subscribe resolve-addresses",
    ),
    ("wasi:sockets/network", "network"),
    (
        "wasi:sockets/tcp",
        "[method]tcp-socket.start-bind [method]tcp-socket.finish-bind \
         [method]tcp-socket.start-connect [method]tcp-socket.finish-connect \
         [method]tcp-socket.start-listen [method]tcp-socket.finish-listen \
         [method]tcp-socket.accept [method]tcp-socket.local-address \
         [method]tcp-socket.remote-address [method]tcp-socket.is-listening \
         [method]tcp-socket.address-family [method]tcp-socket.set-listen-backlog-size \
         [method]tcp-socket.keep-alive-enabled [method]tcp-socket.set-keep-alive-enabled \
         [method]tcp-socket.keep-alive-idle-time [method]tcp-socket.set-keep-alive-idle-time \
         [method]tcp-socket.keep-alive-interval [method]tcp-socket.set-keep-alive-interval \
         [method]tcp-socket.keep-alive-count [method]tcp-socket.set-keep-alive-count \
         [method]tcp-socket.hop-limit [method]tcp-socket.set-hop-limit \
         [method]tcp-socket.receive-buffer-size [method]tcp-socket.set-receive-buffer-size \
         [method]tcp-socket.send-buffer-size [method]tcp-socket.set-send-buffer-size \
         [method]tcp-socket.subscribe [method]tcp-socket.shutdown",
    ),
    ("wasi:sockets/tcp-create-socket", "create-tcp-socket"),
    (
        "wasi:sockets/udp",
        "[method]udp-socket.start-bind [method]udp-socket.finish-bind \
         [method]udp-socket.stream [method]udp-socket.local-address \
         [method]udp-socket.remote-address [method]udp-socket.address-family \
         [method]udp-socket.unicast-hop-limit [method]udp-socket.set-unicast-hop-limit \
         [method]udp-socket.receive-buffer-size [method]udp-socket.set-receive-buffer-size \
         [method]udp-socket.send-buffer-size [method]udp-socket.set-send-buffer-size \
         [method]udp-socket.subscribe [method]incoming-datagram-stream.receive \
         [method]incoming-datagram-stream.subscribe \
         [method]outgoing-datagram-stream.check-send [method]outgoing-datagram-stream.send \
         [method]outgoing-datagram-stream.subscribe",
    ),
    ("wasi:sockets/udp-create-socket", "create-udp-socket"),
];

/// The interfaces that `add_to_linker` of `wasmtime_wasi::p3` and of `wasmtime_wasi_http::p3` define.
const WASI_0_3: [Interface; 23] = [
    (
        "wasi:cli/environment",
        "get-environment get-arguments get-initial-cwd",
    ),
    ("wasi:cli/exit", "exit exit-with-code"),
    ("wasi:cli/stderr", "write-via-stream"),
    ("wasi:cli/stdin", "read-via-stream"),
    ("wasi:cli/stdout", "write-via-stream"),
    ("wasi:cli/terminal-input", "terminal-input"),
    ("wasi:cli/terminal-output", "terminal-output"),
    ("wasi:cli/terminal-stderr", "get-terminal-stderr"),
    ("wasi:cli/terminal-stdin", "get-terminal-stdin"),
    ("wasi:cli/terminal-stdout", "get-terminal-stdout"),
    ("wasi:cli/types", ""),
    (
        "wasi:clocks/monotonic-clock",
        "now get-resolution wait-until wait-for",
    ),
    ("wasi:clocks/system-clock", "now get-resolution"),
    ("wasi:clocks/types", ""),
    ("wasi:filesystem/preopens", "get-directories"),
    (
        "wasi:filesystem/types",
        "[method]descriptor.read-via-stream [method]descriptor.write-via-stream \
         [method]descriptor.append-via-stream [method]descriptor.advise \
         [method]descriptor.sync-data [method]descriptor.get-flags \
         [method]descriptor.get-type [method]descriptor.set-size [method]descriptor.set-times \
         [method]descriptor.read-directory [method]descriptor.sync \
         [method]descriptor.create-directory-at [method]descriptor.stat \
         [method]descriptor.stat-at [method]descriptor.set-times-at \
         [method]descriptor.link-at [method]descriptor.open-at [method]descriptor.readlink-at \
         [method]descriptor.remove-directory-at [method]descriptor.rename-at \
         [method]descriptor.symlink-at [method]descriptor.unlink-file-at \
         [method]descriptor.is-same-object [method]descriptor.metadata-hash \
         [method]descriptor.metadata-hash-at",
    ),
    ("wasi:http/client", "send"),
    (
        "wasi:http/types",
        "[constructor]fields [static]fields.from-list [method]fields.get [method]fields.has \
         [method]fields.set [method]fields.delete [method]fields.get-and-delete \
         [method]fields.append [method]fields.copy-all [method]fields.clone [static]request.new \
         [method]request.get-method [method]request.set-method \
         [method]request.get-path-with-query [method]request.set-path-with-query \
         [method]request.get-scheme [method]request.set-scheme [method]request.get-authority \
         [method]request.set-authority [method]request.get-options [method]request.get-headers \
         [static]request.consume-body [constructor]request-options \
         [method]request-options.get-connect-timeout [method]request-options.set-connect-timeout \
         [method]request-options.get-first-byte-timeout \
         [method]request-options.set-first-byte-timeout \
         [method]request-options.get-between-bytes-timeout \
         [method]request-options.set-between-bytes-timeout [method]request-options.clone \
         [static]response.new [method]response.get-status-code [method]response.set-status-code \
         [method]response.get-headers [static]response.consume-body",
    ),
    (
        "wasi:random/insecure",
        "get-insecure-random-bytes get-insecure-random-u64",
    ),
    ("wasi:random/insecure-seed", "get-insecure-seed"),
    ("wasi:random/random", "get-random-bytes get-random-u64"),
    ("wasi:sockets/ip-name-lookup", "resolve-addresses"),
    (
        "wasi:sockets/types",
        "[static]tcp-socket.create [method]tcp-socket.bind [method]tcp-socket.connect \
         [method]tcp-socket.listen [method]tcp-socket.send [method]tcp-socket.receive \
         [method]tcp-socket.get-local-address [method]tcp-socket.get-remote-address \
         [method]tcp-socket.get-is-listening [method]tcp-socket.get-address-family \
         [method]tcp-socket.set-listen-backlog-size [method]tcp-socket.get-keep-alive-enabled \
         [method]tcp-socket.set-keep-alive-enabled \
         [method]tcp-socket.get-keep-alive-idle-time \
         [method]tcp-socket.set-keep-alive-idle-time \
         [method]tcp-socket.get-keep-alive-interval \
         [method]tcp-socket.set-keep-alive-interval [method]tcp-socket.get-keep-alive-count \
         [method]tcp-socket.set-keep-alive-count [method]tcp-socket.get-hop-limit \
         [method]tcp-socket.set-hop-limit [method]tcp-socket.get-receive-buffer-size \
         [method]tcp-socket.set-receive-buffer-size [method]tcp-socket.get-send-buffer-size \
         [method]tcp-socket.set-send-buffer-size [static]udp-socket.create \
         [method]udp-socket.bind [method]udp-socket.connect [method]udp-socket.disconnect \
         [method]udp-socket.send [method]udp-socket.receive \
         [method]udp-socket.get-local-address [method]udp-socket.get-remote-address \
         [method]udp-socket.get-address-family [method]udp-socket.get-unicast-hop-limit \
         [method]udp-socket.set-unicast-hop-limit [method]udp-socket.get-receive-buffer-size \
         [method]udp-socket.set-receive-buffer-size [method]udp-socket.get-send-buffer-size \
         [method]udp-socket.set-send-buffer-size",
    ),
];

/// A name of WASI, by its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Supported.
    Final2,
    /// Supported.
    Final3,
    /// Older than 0.2.0, or without a version.
    Older,
    /// A draft of a version that is final by now, for example `0.3.0-rc-2025-09-16`.
    Draft,
    /// Newer than what is supported.
    Newer,
}

/// The version of a name of WASI; `None` for any other name.
pub(crate) fn version_of(name: &str) -> Option<Version> {
    let rest = name.strip_prefix("wasi:")?;
    let Some((_, version)) = rest.split_once('@') else {
        return Some(Version::Older);
    };
    let (number, draft) = match version.split_once(['-', '+']) {
        Some((number, _)) => (number, true),
        None => (version, false),
    };
    let mut parts = number.split('.').map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return Some(Version::Older);
    };
    Some(match (major, minor, draft) {
        (0, 2, false) => Version::Final2,
        (0, 3, false) => Version::Final3,
        (0, 0..=1, _) | (0, 2, true) => Version::Older,
        (0, 3, true) => Version::Draft,
        _ => Version::Newer,
    })
}

/// The functions of an interface that exist here; `None` if the interface does not.
pub(crate) fn offered(name: &str) -> Option<&'static str> {
    let (interface, _) = name.split_once('@')?;
    let of = match version_of(name)? {
        Version::Final2 => WASI_0_2.as_slice(),
        Version::Final3 => WASI_0_3.as_slice(),
        Version::Older | Version::Draft | Version::Newer => return None,
    };
    of.iter().find(|one| one.0 == interface).map(|one| one.1)
}

#[cfg(test)]
mod tests {
    use super::{Version, offered, version_of};

    #[test]
    fn patch_releases_are_of_their_minor_version_and_drafts_are_not() {
        for (name, version) in [
            ("wasi:cli/stdout@0.2.0", Some(Version::Final2)),
            ("wasi:cli/stdout@0.2.99", Some(Version::Final2)),
            ("wasi:cli/run@0.3.0", Some(Version::Final3)),
            ("wasi:cli/run@0.3.0-rc-2025-09-16", Some(Version::Draft)),
            ("wasi:cli/run@0.2.0-rc-2023-12-05", Some(Version::Older)),
            ("wasi:cli/run", Some(Version::Older)),
            ("wasi:cli/run@soon", Some(Version::Older)),
            ("wasi:cli/run@1.0.0", Some(Version::Newer)),
            ("plexspaces:application/types@0.1.0", None),
        ] {
            assert_eq!(version_of(name), version, "{name}");
        }
    }

    #[test]
    fn interfaces_are_found_in_their_own_version_alone() {
        assert!(offered("wasi:io/poll@0.2.3").is_some_and(|all| all.contains("poll")));
        assert!(offered("wasi:io/poll@0.3.0").is_none());
        assert!(offered("wasi:clocks/system-clock@0.3.0").is_some());
        assert!(offered("wasi:http/outgoing-handler@0.2.0").is_some());
        assert!(offered("wasi:http/outgoing-handler@0.3.0").is_none());
        assert!(offered("wasi:http/client@0.3.0").is_some());
        assert!(offered("wasi:http/handler@0.3.0").is_none());
        assert!(offered("wasi:nn/tensor@0.2.0").is_none());
    }
}
