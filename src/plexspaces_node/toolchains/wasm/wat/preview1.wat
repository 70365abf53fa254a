  ;; WASI preview 1 by way of WASI 0.2: clocks, random numbers, the environment, sleeping, stdout
  ;; and stderr. There is nothing to read: stdin is at its end.
  ;;
  ;; Whatever the host hands over lies in a memory of the adapter's own. The module's own is only
  ;; read and written where the module says: growing it, as the usual adapter does, breaks Go, whose
  ;; allocator takes all that lies behind its heap for its own.
  (import "wasi:io/error@0.2.0" (instance $wasi-error (export "error" (type (sub resource)))))
  (alias export $wasi-error "error" (type $wasi-error-type))
  (import "wasi:io/poll@0.2.0" (instance $wasi-poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $wasi-poll "pollable" (type $wasi-pollable))
  (import "wasi:io/streams@0.2.0" (instance $wasi-streams
    (alias outer 1 $wasi-error-type (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "output-stream" (type $output-stream (sub resource)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output-stream)) (param "contents" (list u8))
        (result (result (error $stream-error)))))))
  (alias export $wasi-streams "output-stream" (type $wasi-output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $wasi-stdout
    (alias outer 1 $wasi-output-stream (type $outer))
    (export "output-stream" (type $output-stream (eq $outer)))
    (export "get-stdout" (func (result (own $output-stream))))))
  (import "wasi:cli/stderr@0.2.0" (instance $wasi-stderr
    (alias outer 1 $wasi-output-stream (type $outer))
    (export "output-stream" (type $output-stream (eq $outer)))
    (export "get-stderr" (func (result (own $output-stream))))))
  (import "wasi:cli/environment@0.2.0" (instance $wasi-environment
    (export "get-environment" (func (result (list (tuple string string)))))))
  (import "wasi:cli/exit@0.2.12" (instance $wasi-exit
    (export "exit-with-code" (func (param "status-code" u8)))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $wasi-monotonic-clock
    (alias outer 1 $wasi-pollable (type $outer))
    (export "pollable" (type $pollable (eq $outer)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:clocks/wall-clock@0.2.0" (instance $wasi-wall-clock
    (type $record (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $record)))
    (export "now" (func (result $datetime)))))
  (import "wasi:random/random@0.2.0" (instance $wasi-random
    (export "get-random-u64" (func (result u64)))))

  ;; 0: what an import returns, up to 64 bytes; 4096: bytes on their way to a stream;
  ;; 8192: what the host allocates, always the environment, anew each time.
  (core module $wasi-memory-module
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 8192))
    (func (export "reset") (global.set $top (i32.const 8192)))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (if (local.get $old-size) (then unreachable))
      (local.set $at (i32.and
        (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (if (i32.lt_u (global.get $top) (local.get $at)) (then unreachable))
      (block $fits
        (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $fits (i32.ne (i32.const -1)
          (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536))))))
        unreachable)
      (local.get $at)))
  (core instance $wasi-memory-instance (instantiate $wasi-memory-module))
  (alias core export $wasi-memory-instance "memory" (core memory $wasi-memory))
  (alias core export $wasi-memory-instance "realloc" (core func $wasi-realloc))

  (core func $wasi-get-stdout (canon lower (func $wasi-stdout "get-stdout")))
  (core func $wasi-get-stderr (canon lower (func $wasi-stderr "get-stderr")))
  (core func $wasi-write (canon lower
    (func $wasi-streams "[method]output-stream.blocking-write-and-flush") (memory $wasi-memory)))
  (core func $wasi-drop-error (canon resource.drop $wasi-error-type))
  (core func $wasi-get-environment (canon lower
    (func $wasi-environment "get-environment") (memory $wasi-memory) (realloc $wasi-realloc)))
  (core func $wasi-exit-with-code (canon lower (func $wasi-exit "exit-with-code")))
  (core func $wasi-monotonic-now (canon lower (func $wasi-monotonic-clock "now")))
  (core func $wasi-subscribe-duration (canon lower (func $wasi-monotonic-clock "subscribe-duration")))
  (core func $wasi-block (canon lower (func $wasi-poll "[method]pollable.block")))
  (core func $wasi-drop-pollable (canon resource.drop $wasi-pollable))
  (core func $wasi-wall-now (canon lower (func $wasi-wall-clock "now") (memory $wasi-memory)))
  (core func $wasi-random-u64 (canon lower (func $wasi-random "get-random-u64")))

  (core module $wasi-module
    (import "trampolines" "table" (table 13 13 funcref))
    (import "main" "memory" (memory $main 1))
    (import "own" "memory" (memory $own 1))
    (import "own" "reset" (func $reset))
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "get-stderr" (func $get-stderr (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "drop-error" (func $drop-error (param i32)))
    (import "host" "get-environment" (func $get-environment (param i32)))
    (import "host" "exit-with-code" (func $exit-with-code (param i32)))
    (import "host" "monotonic-now" (func $monotonic-now (result i64)))
    (import "host" "subscribe-duration" (func $subscribe-duration (param i64) (result i32)))
    (import "host" "block" (func $block (param i32)))
    (import "host" "drop-pollable" (func $drop-pollable (param i32)))
    (import "host" "wall-now" (func $wall-now (param i32)))
    (import "host" "random-u64" (func $random-u64 (result i64)))
    ;; In the order of the trampolines.
    (elem (i32.const 0) func $args_get $args_sizes_get $environ_get $environ_sizes_get
      $clock_res_get $clock_time_get $fd_fdstat_get $fd_filestat_get $fd_read $fd_write
      $poll_oneoff $random_get $exit)
    ;; Descriptor 1 and 2 as streams; -1 while not asked for.
    (global $stdout (mut i32) (i32.const -1))
    (global $stderr (mut i32) (i32.const -1))

    ;; One argument, "actor": libraries take the first for granted.
    (func $args_sizes_get (param $count i32) (param $bytes i32) (result i32)
      (i32.store $main (local.get $count) (i32.const 1))
      (i32.store $main (local.get $bytes) (i32.const 6))
      (i32.const 0))
    (func $args_get (param $pointers i32) (param $at i32) (result i32)
      (i32.store $main (local.get $pointers) (local.get $at))
      (i32.store $main (local.get $at) (i32.const 0x6f746361))
      (i32.store16 $main offset=4 (local.get $at) (i32.const 0x0072))
      (i32.const 0))

    ;; Of a status, what other systems tell of it too.
    (func $exit (param $status i32)
      (call $exit-with-code (i32.and (local.get $status) (i32.const 255))))

    ;; The environment is a list of pairs of strings: per variable 16 bytes that say where its name
    ;; and its value lie and how long they are.
    (func $environ_sizes_get (param $count i32) (param $bytes i32) (result i32)
      (local $at i32) (local $left i32) (local $sum i32)
      (call $reset)
      (call $get-environment (i32.const 0))
      (local.set $at (i32.load $own (i32.const 0)))
      (local.set $left (i32.load $own (i32.const 4)))
      (i32.store $main (local.get $count) (local.get $left))
      (block $done (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (local.set $sum (i32.add (i32.add (local.get $sum) (i32.const 2))
          (i32.add (i32.load $own offset=4 (local.get $at)) (i32.load $own offset=12 (local.get $at)))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
      (i32.store $main (local.get $bytes) (local.get $sum))
      (i32.const 0))
    (func $environ_get (param $pointers i32) (param $to i32) (result i32)
      (local $at i32) (local $left i32)
      (call $reset)
      (call $get-environment (i32.const 0))
      (local.set $at (i32.load $own (i32.const 0)))
      (local.set $left (i32.load $own (i32.const 4)))
      (block $done (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (i32.store $main (local.get $pointers) (local.get $to))
        (local.set $to (call $put-text (local.get $to) (local.get $at) (i32.const 0x3d)))
        (local.set $to (call $put-text (local.get $to) (i32.add (local.get $at) (i32.const 8)) (i32.const 0)))
        (local.set $pointers (i32.add (local.get $pointers) (i32.const 4)))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
      (i32.const 0))
    ;; Copies a string and a byte after it; returns where the next begins.
    (func $put-text (param $to i32) (param $string i32) (param $end i32) (result i32)
      (local $size i32)
      (local.set $size (i32.load $own offset=4 (local.get $string)))
      (memory.copy $main $own (local.get $to) (i32.load $own (local.get $string)) (local.get $size))
      (local.set $to (i32.add (local.get $to) (local.get $size)))
      (i32.store8 $main (local.get $to) (local.get $end))
      (i32.add (local.get $to) (i32.const 1)))

    ;; Clock 0 is the wall's; 1, and those of CPU time, are monotonic.
    (func $now (param $clock i32) (result i64)
      (if (local.get $clock) (then (return (call $monotonic-now))))
      (call $wall-now (i32.const 0))
      (i64.add (i64.mul (i64.load $own (i32.const 0)) (i64.const 1000000000))
        (i64.extend_i32_u (i32.load $own (i32.const 8)))))
    (func $clock_time_get (param $clock i32) (param $precision i64) (param $result i32) (result i32)
      (i64.store $main (local.get $result) (call $now (local.get $clock)))
      (i32.const 0))
    (func $clock_res_get (param $clock i32) (param $result i32) (result i32)
      (i64.store $main (local.get $result) (i64.const 1))
      (i32.const 0))

    (func $random_get (param $at i32) (param $left i32) (result i32)
      (block $done (loop $next
        (br_if $done (i32.lt_u (local.get $left) (i32.const 8)))
        (i64.store $main (local.get $at) (call $random-u64))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (local.set $left (i32.sub (local.get $left) (i32.const 8)))
        (br $next)))
      (if (local.get $left) (then
        (i64.store $own (i32.const 0) (call $random-u64))
        (memory.copy $main $own (local.get $at) (i32.const 0) (local.get $left))))
      (i32.const 0))

    ;; Descriptors 0, 1 and 2 are character devices with every right; there are no others.
    (func $fd_fdstat_get (param $fd i32) (param $result i32) (result i32)
      (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
      (i64.store $main (local.get $result) (i64.const 2))
      (i64.store $main offset=8 (local.get $result) (i64.const -1))
      (i64.store $main offset=16 (local.get $result) (i64.const -1))
      (i32.const 0))
    (func $fd_filestat_get (param $fd i32) (param $result i32) (result i32)
      (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
      (memory.fill $main (local.get $result) (i32.const 0) (i32.const 64))
      (i32.store8 $main offset=16 (local.get $result) (i32.const 2))
      (i32.const 0))
    (func $fd_read (param $fd i32) (param $buffers i32) (param $count i32) (param $result i32) (result i32)
      (if (local.get $fd) (then (return (i32.const 8))))
      (i32.store $main (local.get $result) (i32.const 0))
      (i32.const 0))
    (func $fd_write (param $fd i32) (param $buffers i32) (param $count i32) (param $result i32) (result i32)
      (local $stream i32) (local $sum i32)
      (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
      (local.set $stream (call $stream (local.get $fd)))
      (block $done (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (if (i32.eqz (call $write-all (local.get $stream)
            (i32.load $main (local.get $buffers)) (i32.load $main offset=4 (local.get $buffers))))
          (then (return (i32.const 29))))  ;; an I/O error
        (local.set $sum (i32.add (local.get $sum) (i32.load $main offset=4 (local.get $buffers))))
        (local.set $buffers (i32.add (local.get $buffers) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
      (i32.store $main (local.get $result) (local.get $sum))
      (i32.const 0))
    (func $stream (param $fd i32) (result i32)
      (if (i32.eq (local.get $fd) (i32.const 1)) (then
        (if (i32.eq (global.get $stdout) (i32.const -1)) (then (global.set $stdout (call $get-stdout))))
        (return (global.get $stdout))))
      (if (i32.eq (global.get $stderr) (i32.const -1)) (then (global.set $stderr (call $get-stderr))))
      (global.get $stderr))
    ;; At most 4096 bytes may be written at once. Returns whether all went well.
    (func $write-all (param $stream i32) (param $at i32) (param $left i32) (result i32)
      (local $size i32)
      (loop $next
        (if (i32.eqz (local.get $left)) (then (return (i32.const 1))))
        (local.set $size (select (local.get $left) (i32.const 4096)
          (i32.lt_u (local.get $left) (i32.const 4096))))
        (memory.copy $own $main (i32.const 4096) (local.get $at) (local.get $size))
        (call $write (local.get $stream) (i32.const 4096) (local.get $size) (i32.const 0))
        (local.set $at (i32.add (local.get $at) (local.get $size)))
        (local.set $left (i32.sub (local.get $left) (local.get $size)))
        (br_if $next (i32.eqz (i32.load8_u $own (i32.const 0)))))
      (if (i32.eqz (i32.load8_u $own (i32.const 4)))
        (then (call $drop-error (i32.load $own (i32.const 8)))))
      (i32.const 0))

    ;; Waits for the earliest clock among the subscriptions; descriptors are never ready.
    (func $poll_oneoff (param $in i32) (param $out i32) (param $count i32) (param $result i32) (result i32)
      (local $rest i64) (local $earliest i64) (local $who i32)
      (local.set $earliest (i64.const -1))
      (block $done (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (if (i32.eqz (i32.load8_u $main offset=8 (local.get $in))) (then
          (local.set $rest (call $until (local.get $in)))
          (if (i64.lt_u (local.get $rest) (local.get $earliest)) (then
            (local.set $earliest (local.get $rest))
            (local.set $who (local.get $in))))))
        (local.set $in (i32.add (local.get $in) (i32.const 48)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
      (if (i32.eqz (local.get $who)) (then (return (i32.const 58))))  ;; not supported
      (call $sleep (local.get $earliest))
      (i64.store $main (local.get $out) (i64.load $main (local.get $who)))
      (memory.fill $main (i32.add (local.get $out) (i32.const 8)) (i32.const 0) (i32.const 24))
      (i32.store $main (local.get $result) (i32.const 1))
      (i32.const 0))
    ;; How long it is until a subscription's time, which is absolute when the lowest flag is set.
    (func $until (param $subscription i32) (result i64)
      (local $when i64) (local $now i64)
      (local.set $when (i64.load $main offset=24 (local.get $subscription)))
      (if (i32.eqz (i32.and (i32.load16_u $main offset=40 (local.get $subscription)) (i32.const 1)))
        (then (return (local.get $when))))
      (local.set $now (call $now (i32.load $main offset=16 (local.get $subscription))))
      (if (result i64) (i64.gt_u (local.get $when) (local.get $now))
        (then (i64.sub (local.get $when) (local.get $now)))
        (else (i64.const 0))))
    ;; By slices of 10 ms: a message's deadline can end code of the actor's, but not the host's.
    (func $sleep (param $ns i64)
      (local $end i64) (local $now i64) (local $handle i32)
      (local.set $now (call $monotonic-now))
      (local.set $end (i64.add (local.get $now) (local.get $ns)))
      (if (i64.lt_u (local.get $end) (local.get $now)) (then (local.set $end (i64.const -1))))
      (loop $next
        (if (i64.lt_u (local.get $now) (local.get $end)) (then
          (local.set $ns (i64.sub (local.get $end) (local.get $now)))
          (local.set $handle (call $subscribe-duration (select (local.get $ns) (i64.const 10000000)
            (i64.lt_u (local.get $ns) (i64.const 10000000)))))
          (call $block (local.get $handle))
          (call $drop-pollable (local.get $handle))
          (local.set $now (call $monotonic-now))
          (br $next))))))
  (core instance (instantiate $wasi-module
    (with "trampolines" (instance $wasi-trampolines))
    (with "main" (instance $main))
    (with "own" (instance $wasi-memory-instance))
    (with "host" (instance
      (export "get-stdout" (func $wasi-get-stdout))
      (export "get-stderr" (func $wasi-get-stderr))
      (export "write" (func $wasi-write))
      (export "drop-error" (func $wasi-drop-error))
      (export "get-environment" (func $wasi-get-environment))
      (export "exit-with-code" (func $wasi-exit-with-code))
      (export "monotonic-now" (func $wasi-monotonic-now))
      (export "subscribe-duration" (func $wasi-subscribe-duration))
      (export "block" (func $wasi-block))
      (export "drop-pollable" (func $wasi-drop-pollable))
      (export "wall-now" (func $wasi-wall-now))
      (export "random-u64" (func $wasi-random-u64))))))
