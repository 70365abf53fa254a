;; The component around an actor's core module: it gives the module the functions of the contract
;; (wit/application.wit) and exports the module's own as the actor.
;;
;; The module owns the memory that the functions given to it work on, so they cannot exist before
;; it does. It is given trampolines instead, which jump through a table that is filled afterwards.
;;
;; Not whole as it stands: toolchains/wrap.py puts the module in the place of the first core module and
;; fills the places written {like-this}.
(component
  (core module $main-module)

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
    (alias outer 1 $actor-error (type $error))
    (export "actor-error" (type $actor-error (eq $error)))
    (export "tell" (func (param "to" string) (param "msg-type" string) (param "payload" (list u8))
      (result (result (error $actor-error)))))
    (export "ask" (func (param "to" string) (param "msg-type" string) (param "payload" (list u8)) (param "timeout-ms" u32)
      (result (result (list u8) (error $actor-error)))))))
  {http}
  ;; For a module that cannot allocate when it is called from outside (Go: its garbage collector
  ;; may run then, and that calls WASI, which is forbidden there). Whatever the host hands over is
  ;; put into one block of memory that the module registers; `release` takes everything back that
  ;; came after a `mark`.
  (core module $arena-module
    (global $base (mut i32) (i32.const 0))
    (global $size (mut i32) (i32.const 0))
    (global $used (mut i32) (i32.const 0))
    (func (export "register") (param $base i32) (param $size i32)
      (global.set $base (local.get $base))
      (global.set $size (local.get $size))
      (global.set $used (i32.const 0)))
    (func (export "mark") (result i32) (global.get $used))
    (func (export "release") (param $mark i32) (global.set $used (local.get $mark)))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      ;; Growing is asked for only with strings in other encodings than UTF-8.
      (if (local.get $old-size) (then unreachable))
      (local.set $at (i32.and
        (i32.add (i32.add (global.get $base) (global.get $used)) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (local.set $old (i32.sub (local.get $at) (global.get $base)))
      (if (i32.gt_u (local.get $old) (global.get $size)) (then unreachable))
      (if (i32.gt_u (local.get $size) (i32.sub (global.get $size) (local.get $old))) (then unreachable))
      (global.set $used (i32.add (local.get $old) (local.get $size)))
      (local.get $at)))
  (core instance $arena (instantiate $arena-module))

  (core module $trampolines-module
    (type $log (func (param i32 i32 i32)))
    (type $get (func (param i32 i32 i32)))
    (type $put (func (param i32 i32 i32 i32 i32)))
    (type $delete (func (param i32 i32 i32)))
    (type $tell (func (param i32 i32 i32 i32 i32 i32 i32)))
    (type $ask (func (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (type $fetch (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (table (export "table") 7 7 funcref)
    (func (export "log") (type $log)
      (call_indirect (type $log) (local.get 0) (local.get 1) (local.get 2) (i32.const 0)))
    (func (export "get") (type $get)
      (call_indirect (type $get) (local.get 0) (local.get 1) (local.get 2) (i32.const 1)))
    (func (export "put") (type $put)
      (call_indirect (type $put) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (i32.const 2)))
    (func (export "delete") (type $delete)
      (call_indirect (type $delete) (local.get 0) (local.get 1) (local.get 2) (i32.const 3)))
    (func (export "tell") (type $tell)
      (call_indirect (type $tell) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
        (local.get 5) (local.get 6) (i32.const 4)))
    (func (export "ask") (type $ask)
      (call_indirect (type $ask) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
        (local.get 5) (local.get 6) (local.get 7) (i32.const 5)))
    (func (export "fetch") (type $fetch)
      (call_indirect (type $fetch) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
        (local.get 5) (local.get 6) (local.get 7) (local.get 8) (local.get 9) (i32.const 6))))
  (core instance $trampolines (instantiate $trampolines-module))

  {wasi-trampolines}
  (core instance $main (instantiate $main-module
    {arguments}))
  (alias core export $main "memory" (core memory $memory))
  (alias core export {realloc} (core func $realloc))

  (core func $log (canon lower (func $logging "log") (memory $memory)))
  (core func $get (canon lower (func $keyvalue "get") (memory $memory) (realloc $realloc)))
  (core func $put (canon lower (func $keyvalue "put") (memory $memory) (realloc $realloc)))
  (core func $delete (canon lower (func $keyvalue "delete") (memory $memory) (realloc $realloc)))
  (core func $tell (canon lower (func $messaging "tell") (memory $memory) (realloc $realloc)))
  (core func $ask (canon lower (func $messaging "ask") (memory $memory) (realloc $realloc)))
  {http-lowered}
  {wasi}
  ;; Fills the table, then lets the module initialise itself: it may call all of its imports.
  (core module $start-module
    (import "trampolines" "table" (table 7 7 funcref))
    (import "host" "log" (func $log (param i32 i32 i32)))
    (import "host" "get" (func $get (param i32 i32 i32)))
    (import "host" "put" (func $put (param i32 i32 i32 i32 i32)))
    (import "host" "delete" (func $delete (param i32 i32 i32)))
    (import "host" "tell" (func $tell (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "ask" (func $ask (param i32 i32 i32 i32 i32 i32 i32 i32)))
    {http-wanted}
    (elem (i32.const 0) func $log $get $put $delete $tell $ask {http-entry})
    {initialize})
  (core instance (instantiate $start-module
    (with "trampolines" (instance $trampolines))
    (with "main" (instance $main))
    (with "host" (instance
      (export "log" (func $log)) (export "get" (func $get)) (export "put" (func $put))
      (export "delete" (func $delete)) (export "tell" (func $tell)) (export "ask" (func $ask)) {http-given}))))

  {post-returns}
  (func $init (param "initial-state" (list u8)) (result (result (error string)))
    (canon lift (core func $main "plexspaces:application/actor@0.1.0#init")
      (memory $memory) (realloc $realloc) {post-init}))
  (func $handle-message (param "sender" string) (param "msg-type" string) (param "payload" (list u8))
    (result (result (list u8) (error $actor-error)))
    (canon lift (core func $main "plexspaces:application/actor@0.1.0#handle-message")
      (memory $memory) (realloc $realloc) {post-handle-message}))
  (func $snapshot-state (result (list u8))
    (canon lift (core func $main "plexspaces:application/actor@0.1.0#snapshot-state")
      (memory $memory) (realloc $realloc) {post-snapshot-state}))
  (func $shutdown (canon lift (core func $main "plexspaces:application/actor@0.1.0#shutdown")))

  (instance $actor
    (export "actor-error" (type $actor-error))
    (export "init" (func $init))
    (export "handle-message" (func $handle-message))
    (export "snapshot-state" (func $snapshot-state))
    (export "shutdown" (func $shutdown)))
  (export "plexspaces:application/actor@0.1.0" (instance $actor)))
