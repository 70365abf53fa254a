;; A WASI command written by hand. The first byte of its input says what it does, the rest is what
;; it does it with; see the comments below. Its memory has room for an input of 60 kB.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  ;; 0: an iovec; 8: how much was read or written; 16: a subscription; 128: an event; 1024: input
  (func $say (param $stream i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (local.get $stream) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $sleep (param $seconds i64)
    (i32.store (i32.const 32) (i32.const 1))
    (i64.store (i32.const 40) (i64.mul (local.get $seconds) (i64.const 1000000000)))
    (drop (call $poll (i32.const 16) (i32.const 128) (i32.const 1) (i32.const 8))))
  (func $inner (param $first i32)
    ;; t: traps, three functions deep
    (if (i32.eq (local.get $first) (i32.const 116)) (then unreachable)))
  (func $middle (param $first i32) (call $inner (local.get $first)))
  (func (export "_start")
    (local $first i32) (local $length i32)
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 61440))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $length (i32.sub (i32.load (i32.const 8)) (i32.const 1)))
    (local.set $first (i32.load8_u (i32.const 1024)))
    (call $middle (local.get $first))
    ;; o: writes the rest to stdout and ends with status 1
    (if (i32.eq (local.get $first) (i32.const 111)) (then
      (call $say (i32.const 1) (i32.const 1025) (local.get $length))
      (call $exit (i32.const 1))))
    ;; e: writes the rest to stderr and ends well
    (if (i32.eq (local.get $first) (i32.const 101)) (then
      (call $say (i32.const 2) (i32.const 1025) (local.get $length))))
    ;; q: ends with the next byte as its status
    (if (i32.eq (local.get $first) (i32.const 113)) (then
      (call $exit (i32.load8_u (i32.const 1025)))))
    ;; z: says so on stdout, then sleeps for as many seconds as the next byte says
    (if (i32.eq (local.get $first) (i32.const 122)) (then
      (call $say (i32.const 1) (i32.const 1024) (i32.const 1))
      (call $sleep (i64.load8_u (i32.const 1025)))))
    ;; g: takes all the memory there is, writes a line to stderr, then sleeps for as many seconds as
    ;; the next byte says
    (if (i32.eq (local.get $first) (i32.const 103)) (then
      (block $full (loop $more
        (br_if $full (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
        (br $more)))
      (i32.store16 (i32.const 1026) (i32.const 0x0a67))
      (call $say (i32.const 2) (i32.const 1026) (i32.const 2))
      (call $sleep (i64.load8_u (i32.const 1025)))))
    ;; a: writes its arguments to stdout, each with a zero at its end
    (if (i32.eq (local.get $first) (i32.const 97)) (then
      (drop (call $sizes (i32.const 16) (i32.const 20)))
      (drop (call $args (i32.const 2048) (i32.const 4096)))
      (call $say (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))))
    ;; l: writes ten thousand lines to stderr
    (if (i32.eq (local.get $first) (i32.const 108)) (then
      (local.set $length (i32.const 10000))
      (i32.store16 (i32.const 1024) (i32.const 0x0a6c))
      (loop $more
        (call $say (i32.const 2) (i32.const 1024) (i32.const 2))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br_if $more (local.get $length)))))))
