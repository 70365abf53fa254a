;; An actor component written by hand, so that tests need no compiler of a language.
;; The first byte of a message's type says what it does; see the `case` comments below. Its state
;; is one u32 counter; a longer one, see `b`, has it at both ends. INIT is replaced by the tests: how `init` behaves (0 well, 1 error,
;; 2 trap, 3 endless loop).
(component
  (import "plexspaces:application/types@0.1.0" (instance $types
    (type $record (record (field "code" string) (field "message" string) (field "retryable" bool)))
    (export "actor-error" (type (eq $record)))))
  (alias export $types "actor-error" (type $actor-error))
  (import "plexspaces:application/logging@0.1.0" (instance $logging
    (type $enum (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $enum)))
    (export "log" (func (param "level" $level) (param "message" string)))))
  (import "plexspaces:application/keyvalue@0.1.0" (instance $keyvalue
    (export "get" (func (param "key" string) (result (result (option (list u8)) (error string)))))
    (export "put" (func (param "key" string) (param "value" (list u8)) (result (result (error string)))))
    (export "delete" (func (param "key" string) (result (result (error string)))))))
  (import "plexspaces:application/messaging@0.1.0" (instance $messaging
    (alias outer 1 $actor-error (type $e))
    (export "actor-error" (type $actor-error (eq $e)))
    (export "tell" (func (param "to" string) (param "msg-type" string) (param "payload" (list u8)) (result (result (error $actor-error)))))
    (export "ask" (func (param "to" string) (param "msg-type" string) (param "payload" (list u8)) (param "timeout-ms" u32) (result (result (list u8) (error $actor-error)))))))

  (core module $memory-module
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 4096))
    (func (export "reset") (global.set $top (i32.const 4096)))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (block $fits
        (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $fits (i32.ne (i32.const -1)
          (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536))))))
        unreachable)
      (if (local.get $old-size)
        (then (memory.copy (local.get $at) (local.get $old) (local.get $old-size))))
      (local.get $at)))
  (core instance $m (instantiate $memory-module))
  (alias core export $m "memory" (core memory $memory))
  (alias core export $m "realloc" (core func $realloc))

  (core func $log (canon lower (func $logging "log") (memory $memory)))
  (core func $get (canon lower (func $keyvalue "get") (memory $memory) (realloc $realloc)))
  (core func $put (canon lower (func $keyvalue "put") (memory $memory) (realloc $realloc)))
  (core func $delete (canon lower (func $keyvalue "delete") (memory $memory) (realloc $realloc)))
  (core func $tell (canon lower (func $messaging "tell") (memory $memory) (realloc $realloc)))
  (core func $ask (canon lower (func $messaging "ask") (memory $memory) (realloc $realloc)))

  (core module $actor-module
    (import "m" "memory" (memory 1))
    (import "m" "reset" (func $reset))
    (import "host" "log" (func $log (param i32 i32 i32)))
    (import "host" "get" (func $get (param i32 i32 i32)))
    (import "host" "put" (func $put (param i32 i32 i32 i32 i32)))
    (import "host" "delete" (func $delete (param i32 i32 i32)))
    (import "host" "tell" (func $tell (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "ask" (func $ask (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (data (i32.const 16) "nope")
    (data (i32.const 32) "init said no")
    (global $counter (mut i32) (i32.const 0))
    (global $state-size (mut i32) (i32.const 4))
    (global $is-stuck (mut i32) (i32.const 0))
    (global $life-size (mut i32) (i32.const 0))
    ;; 256: what an export returns; 320: what an import returns; 512: see `i`.

    (func $ok (param $at i32) (param $size i32) (result i32)
      (i32.store (i32.const 256) (i32.const 0))
      (i32.store (i32.const 260) (local.get $at))
      (i32.store (i32.const 264) (local.get $size))
      (i32.const 256))
    (func $fail (param $at i32) (param $size i32) (result i32)
      (i32.store (i32.const 256) (i32.const 1))
      (i32.store (i32.const 260) (i32.const 16))
      (i32.store (i32.const 264) (i32.const 4))
      (i32.store (i32.const 268) (local.get $at))
      (i32.store (i32.const 272) (local.get $size))
      (i32.store (i32.const 276) (i32.const 1))
      (i32.const 256))
    ;; An import's result<list<u8>, actor-error> has the layout of our own: hand it on.
    (func $hand-on (result i32) (memory.copy (i32.const 256) (i32.const 320) (i32.const 24)) (i32.const 256))

    (func (export "init") (param $at i32) (param $size i32) (result i32)
      (if (i32.eq (i32.const INIT) (i32.const 1)) (then
        (i32.store (i32.const 256) (i32.const 1))
        (i32.store (i32.const 260) (i32.const 32))
        (i32.store (i32.const 264) (i32.const 12))
        (return (i32.const 256))))
      (if (i32.eq (i32.const INIT) (i32.const 2)) (then unreachable))
      (if (i32.eq (i32.const INIT) (i32.const 3)) (then (loop $for-ever (br $for-ever))))
      (if (i32.ge_u (local.get $size) (i32.const 4)) (then
        (global.set $counter (i32.load (local.get $at)))
        (global.set $state-size (local.get $size))
        (if (i32.ne (global.get $counter)
            (i32.load (i32.add (local.get $at) (i32.sub (local.get $size) (i32.const 4)))))
          (then unreachable))))
      (i32.store (i32.const 256) (i32.const 0))
      (i32.const 256))

    (func (export "handle-message")
        (param $sender i32) (param $sender-size i32) (param $type i32) (param $type-size i32)
        (param $at i32) (param $size i32) (result i32)
      (local $case i32) (local $name-size i32) (local $rest i32)
      (local.set $case (i32.load8_u (local.get $type)))
      ;; e: echo
      (if (i32.eq (local.get $case) (i32.const 101)) (then
        (return (call $ok (local.get $at) (local.get $size)))))
      ;; c: count up, answer the counter as a little-endian u32
      (if (i32.eq (local.get $case) (i32.const 99)) (then
        (global.set $counter (i32.add (global.get $counter) (i32.const 1)))
        (i32.store (i32.const 300) (global.get $counter))
        (return (call $ok (i32.const 300) (i32.const 4)))))
      ;; b: make the state so many bytes long, and count up
      (if (i32.eq (local.get $case) (i32.const 98)) (then
        (global.set $state-size (i32.load (local.get $at)))
        (global.set $counter (i32.add (global.get $counter) (i32.const 1)))
        (call $make-room)
        (return (call $ok (i32.const 0) (i32.const 0)))))
      ;; n: count up, and trap when the state is asked for; with a payload it is that long too
      (if (i32.eq (local.get $case) (i32.const 110)) (then
        (global.set $is-stuck (i32.const 1))
        (if (local.get $size) (then
          (global.set $state-size (i32.load (local.get $at)))
          (call $make-room)))
        (global.set $counter (i32.add (global.get $counter) (i32.const 1)))
        (return (call $ok (i32.const 0) (i32.const 0)))))
      ;; w: who sent this
      (if (i32.eq (local.get $case) (i32.const 119)) (then
        (return (call $ok (local.get $sender) (local.get $sender-size)))))
      ;; t: trap
      (if (i32.eq (local.get $case) (i32.const 116)) (then unreachable))
      ;; l: log the payload, if there is one, and loop for ever
      (if (i32.eq (local.get $case) (i32.const 108)) (then
        (if (local.get $size) (then (call $log (i32.const 2) (local.get $at) (local.get $size))))
        (loop $for-ever (br $for-ever))))
      ;; f: answer the error record, the payload as its message
      (if (i32.eq (local.get $case) (i32.const 102)) (then
        (return (call $fail (local.get $at) (local.get $size)))))
      ;; m: take memory until there is no more, then give up
      (if (i32.eq (local.get $case) (i32.const 109)) (then
        (block $full (loop $more
          (br_if $full (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
          (br $more)))
        unreachable))
      ;; z: answer the first 3,000,000 bytes of memory, more than can be carried
      (if (i32.eq (local.get $case) (i32.const 122)) (then
        (drop (memory.grow (i32.const 64)))
        (return (call $ok (i32.const 0) (i32.const 3000000)))))
      ;; o: log the payload at level info
      (if (i32.eq (local.get $case) (i32.const 111)) (then
        (call $log (i32.const 2) (local.get $at) (local.get $size))
        (return (call $ok (i32.const 0) (i32.const 0)))))
      ;; g: get the key named by the payload; answer "" when there is none
      (if (i32.eq (local.get $case) (i32.const 103)) (then
        (call $get (local.get $at) (local.get $size) (i32.const 320))
        (if (i32.load8_u (i32.const 320)) (then
          (return (call $fail (i32.load (i32.const 324)) (i32.load (i32.const 328))))))
        (if (i32.load8_u (i32.const 324)) (then
          (return (call $ok (i32.load (i32.const 328)) (i32.load (i32.const 332))))))
        (return (call $ok (i32.const 0) (i32.const 0)))))
      ;; p: put the payload under itself as key
      (if (i32.eq (local.get $case) (i32.const 112)) (then
        (call $put (local.get $at) (local.get $size) (local.get $at) (local.get $size) (i32.const 320))
        (if (i32.load8_u (i32.const 320)) (then
          (return (call $fail (i32.load (i32.const 324)) (i32.load (i32.const 328))))))
        (return (call $ok (i32.const 0) (i32.const 0)))))
      ;; u: put a key. The payload: length of the key, the key, its value.
      (if (i32.eq (local.get $case) (i32.const 117)) (then
        (local.set $name-size (i32.load8_u (local.get $at)))
        (call $put
          (i32.add (local.get $at) (i32.const 1)) (local.get $name-size)
          (i32.add (i32.add (local.get $at) (i32.const 1)) (local.get $name-size))
          (i32.sub (local.get $size) (i32.add (local.get $name-size) (i32.const 1)))
          (i32.const 320))
        (if (i32.load8_u (i32.const 320)) (then
          (return (call $fail (i32.load (i32.const 324)) (i32.load (i32.const 328))))))
        (return (call $ok (i32.const 0) (i32.const 0)))))
      ;; i: answer the payload of the first such message since the start, at most 64 bytes of it
      (if (i32.eq (local.get $case) (i32.const 105)) (then
        (if (i32.eqz (global.get $life-size)) (then
          (global.set $life-size
            (select (local.get $size) (i32.const 64) (i32.lt_u (local.get $size) (i32.const 64))))
          (memory.copy (i32.const 512) (local.get $at) (global.get $life-size))))
        (return (call $ok (i32.const 512) (global.get $life-size)))))
      ;; d: delete the key named by the payload
      (if (i32.eq (local.get $case) (i32.const 100)) (then
        (call $delete (local.get $at) (local.get $size) (i32.const 320))
        (return (call $ok (i32.const 0) (i32.const 0)))))
      ;; a, s: ask or tell. The payload: length of the name, the name, one byte of type, payload.
      (local.set $name-size (i32.load8_u (local.get $at)))
      (local.set $rest (i32.add (local.get $at) (i32.add (local.get $name-size) (i32.const 1))))
      (local.set $size (i32.sub (local.get $size) (i32.add (local.get $name-size) (i32.const 2))))
      (if (i32.eq (local.get $case) (i32.const 97)) (then
        (call $ask (i32.add (local.get $at) (i32.const 1)) (local.get $name-size)
          (local.get $rest) (i32.const 1)
          (i32.add (local.get $rest) (i32.const 1)) (local.get $size)
          (i32.const 10000) (i32.const 320))
        (return (call $hand-on))))
      (if (i32.eq (local.get $case) (i32.const 115)) (then
        (call $tell (i32.add (local.get $at) (i32.const 1)) (local.get $name-size)
          (local.get $rest) (i32.const 1)
          (i32.add (local.get $rest) (i32.const 1)) (local.get $size) (i32.const 320))
        (if (i32.load8_u (i32.const 320)) (then (return (call $hand-on))))
        (return (call $ok (i32.const 0) (i32.const 0)))))
      (call $fail (local.get $type) (local.get $type-size)))

    ;; The state is written where messages lie, when there is none.
    (func $make-room
      (local $wanted i32)
      (local.set $wanted
        (i32.div_u (i32.add (global.get $state-size) (i32.const 69632)) (i32.const 65536)))
      (if (i32.gt_u (local.get $wanted) (memory.size)) (then
        (if (i32.eq (i32.const -1)
            (memory.grow (i32.sub (local.get $wanted) (memory.size))))
          (then unreachable)))))
    (func (export "snapshot-state") (result i32)
      (if (global.get $is-stuck) (then unreachable))
      (call $make-room)
      (memory.fill (i32.const 4096) (i32.const 120) (global.get $state-size))
      (i32.store (i32.const 4096) (global.get $counter))
      (i32.store (i32.add (i32.const 4092) (global.get $state-size)) (global.get $counter))
      (i32.store (i32.const 256) (i32.const 4096))
      (i32.store (i32.const 260) (global.get $state-size))
      (i32.const 256))
    (func (export "shutdown") (call $log (i32.const 2) (i32.const 16) (i32.const 4)))
    (func (export "post") (param i32) (call $reset)))

  (core instance $a (instantiate $actor-module
    (with "m" (instance $m))
    (with "host" (instance
      (export "log" (func $log)) (export "get" (func $get)) (export "put" (func $put))
      (export "delete" (func $delete)) (export "tell" (func $tell)) (export "ask" (func $ask))))))
  (alias core export $a "post" (core func $post))

  (func $init (param "initial-state" (list u8)) (result (result (error string)))
    (canon lift (core func $a "init") (memory $memory) (realloc $realloc) (post-return $post)))
  (func $handle-message (param "sender" string) (param "msg-type" string) (param "payload" (list u8)) (result (result (list u8) (error $actor-error)))
    (canon lift (core func $a "handle-message") (memory $memory) (realloc $realloc) (post-return $post)))
  (func $snapshot-state (result (list u8))
    (canon lift (core func $a "snapshot-state") (memory $memory) (realloc $realloc) (post-return $post)))
  (func $shutdown (canon lift (core func $a "shutdown")))

  (instance $actor
    (export "actor-error" (type $actor-error))
    (export "init" (func $init))
    (export "handle-message" (func $handle-message))
    (export "snapshot-state" (func $snapshot-state))
    (export "shutdown" (func $shutdown)))
  (export "plexspaces:application/actor@0.1.0" (instance $actor)))
