;; What a component can do before it does anything else: for the two lines that say so in
;; http.wat, http-async.wat and command-component.wat. It gets a key, logs, sends an HTTP request
;; and, with TRAPS at 1 instead of 0, traps.
  (import "plexspaces:application/logging@0.1.0" (instance $logging
    (type $enum (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $enum)))
    (export "log" (func (param "level" $level) (param "message" string)))))
  (import "plexspaces:application/keyvalue@0.1.0" (instance $keyvalue
    (export "get" (func (param "key" string) (result (result (option (list u8)) (error string)))))))
  (import "plexspaces:application/types@0.1.0" (instance $contract
    (type $record (record (field "code" string) (field "message" string) (field "retryable" bool)))
    (export "actor-error" (type (eq $record)))))
  (alias export $contract "actor-error" (type $actor-error))
  (import "plexspaces:application/http@0.1.0" (instance $fetching
    (alias outer 1 $actor-error (type $e))
    (export "actor-error" (type $actor-error (eq $e)))
    (type $headers (list (tuple string (list u8))))
    (type $asked (record (field "method" string) (field "url" string) (field "headers" $headers)
      (field "body" (list u8)) (field "timeout-ms" u32)))
    (export "request" (type $request (eq $asked)))
    (type $answered (record (field "status" u16) (field "headers" $headers)
      (field "body" (list u8))))
    (export "response" (type $response (eq $answered)))
    (export "fetch" (func (param "request" $request)
      (result (result $response (error $actor-error)))))))
  (core func $log (canon lower (func $logging "log") (memory $memory)))
  (core func $get (canon lower (func $keyvalue "get") (memory $memory) (realloc $realloc)))
  (core func $fetch (canon lower (func $fetching "fetch") (memory $memory) (realloc $realloc)))
  (core module $before-module
    (import "m" "memory" (memory 1))
    (import "host" "log" (func $log (param i32 i32 i32)))
    (import "host" "get" (func $get (param i32 i32 i32)))
    (import "host" "fetch" (func $fetch (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
    (data (i32.const 512) "GET")
    (data (i32.const 528) "http://example.com/")
    (func (export "run")
      (call $get (i32.const 512) (i32.const 3) (i32.const 576))
      (call $log (i32.const 2) (i32.const 512) (i32.const 3))
      (call $fetch (i32.const 512) (i32.const 3) (i32.const 528) (i32.const 19)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 576))
      (if (i32.const TRAPS) (then unreachable))))
  (core instance $before (instantiate $before-module
    (with "m" (instance $m))
    (with "host" (instance
      (export "log" (func $log)) (export "get" (func $get)) (export "fetch" (func $fetch))))))
