;; A core module, no component yet, that calls WASI preview 1 as the first letter of a message's
;; type says; see the comments. For the tests of toolchains/wrap.py, which makes an actor of it.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write_again (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 4)
  (func $is (param $type i32) (param $letter i32) (result i32)
    (i32.eq (i32.load8_u (local.get $type)) (local.get $letter)))
  (func (export "plexspaces:application/actor@0.1.0#handle-message")
    (param $from i32) (param $from-size i32) (param $type i32) (param $type-size i32)
    (param $at i32) (param $size i32) (result i32)
    (local $code i32)
    ;; a: arguments
    (if (call $is (local.get $type) (i32.const 97)) (then
      (drop (call $args_sizes_get (i32.const 64) (i32.const 68)))
      (drop (call $args_get (i32.const 72) (i32.const 80)))
      (return (call $ok (i32.const 64) (i32.const 22)))))
    ;; e: environment; the block of texts at 70000
    (if (call $is (local.get $type) (i32.const 101)) (then
      (drop (call $environ_sizes_get (i32.const 64) (i32.const 68)))
      (drop (call $environ_get (i32.const 65000) (i32.const 70000)))
      (return (call $ok (i32.const 70000) (i32.load (i32.const 68))))))
    ;; c: the clock named by the payload's first byte
    (if (call $is (local.get $type) (i32.const 99)) (then
      (drop (call $clock_time_get (i32.load8_u (local.get $at)) (i64.const 0) (i32.const 64)))
      (return (call $ok (i32.const 64) (i32.const 8)))))
    ;; r: 13 random bytes, and zeros after them
    (if (call $is (local.get $type) (i32.const 114)) (then
      (drop (call $random_get (i32.const 64) (i32.const 13)))
      (return (call $ok (i32.const 64) (i32.const 20)))))
    ;; w: the payload to the descriptor named by its first byte, in two buffers of which the first
    ;; is that byte; answers code and number written
    (if (call $is (local.get $type) (i32.const 119)) (then
      (i32.store (i32.const 72) (local.get $at))
      (i32.store (i32.const 76) (i32.const 1))
      (i32.store (i32.const 80) (i32.add (local.get $at) (i32.const 1)))
      (i32.store (i32.const 84) (i32.sub (local.get $size) (i32.const 1)))
      (i32.store (i32.const 64) (call $fd_write_again
        (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)) (i32.const 72) (i32.const 2) (i32.const 68)))
      (return (call $ok (i32.const 64) (i32.const 8)))))
    ;; d: what is said of the descriptor named by the payload
    (if (call $is (local.get $type) (i32.const 100)) (then
      (local.set $code (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (i32.store (i32.const 64) (call $fd_fdstat_get (local.get $code) (i32.const 128)))
      (i32.store8 (i32.const 68) (i32.load8_u (i32.const 128)))
      (i32.store8 (i32.const 69) (call $fd_filestat_get (local.get $code) (i32.const 128)))
      (i32.store8 (i32.const 70) (i32.load8_u (i32.const 144)))
      (i32.store8 (i32.const 71) (call $fd_read (local.get $code) (i32.const 256) (i32.const 1) (i32.const 264)))
      (i32.store8 (i32.const 72) (call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 128)))
      (i32.store8 (i32.const 73) (call $sched_yield))
      (return (call $ok (i32.const 64) (i32.const 10)))))
    ;; p: the payload, subscriptions; answers code, how many events, and the first
    (if (call $is (local.get $type) (i32.const 112)) (then
      (memory.fill (i32.const 72) (i32.const 255) (i32.const 32))
      (i32.store (i32.const 64) (call $poll_oneoff (local.get $at) (i32.const 72)
        (i32.div_u (local.get $size) (i32.const 48)) (i32.const 68)))
      (return (call $ok (i32.const 64) (i32.const 40)))))
    ;; m: how many pages there are
    (if (call $is (local.get $type) (i32.const 109)) (then
      (i32.store (i32.const 64) (memory.size))
      (return (call $ok (i32.const 64) (i32.const 4)))))
    ;; x: the end
    (call $proc_exit (i32.const 3))
    unreachable)
  (global $top (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3))))
  (data (i32.const 8) "s")
  (func $ok (param $at i32) (param $size i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $at))
    (i32.store (i32.const 24) (local.get $size))
    (i32.const 16))
  (func (export "plexspaces:application/actor@0.1.0#init") (param i32 i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16))
  (func (export "plexspaces:application/actor@0.1.0#snapshot-state") (result i32)
    (i32.store (i32.const 16) (i32.const 8)) (i32.store (i32.const 20) (i32.const 1)) (i32.const 16))
  (func (export "plexspaces:application/actor@0.1.0#shutdown")))
