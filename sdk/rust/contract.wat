;; What `wit/application.wit` says, in the form in which a linker of wasm32-wasip2 reads it from the
;; section `component-type` of a program. `src/contract.component-type` is this file assembled:
;;
;;     python -c 'import sys, wasmtime; sys.stdout.buffer.write(wasmtime.wat2wasm(sys.stdin.read()))' \
;;         <contract.wat >src/contract.component-type
(component
  (@custom "wit-component-encoding" "\04\00")
  (type $package (component
    (type $world (component
      (import "plexspaces:application/logging@0.1.0" (instance
        (type $enum (enum "trace" "debug" "info" "warn" "error"))
        (export "level" (type $level (eq $enum)))
        (export "log" (func (param "level" $level) (param "message" string)))))
      (import "plexspaces:application/keyvalue@0.1.0" (instance
        (export "get" (func (param "key" string)
          (result (result (option (list u8)) (error string)))))
        (export "put" (func (param "key" string) (param "value" (list u8))
          (result (result (error string)))))
        (export "delete" (func (param "key" string) (result (result (error string)))))))
      (import "plexspaces:application/types@0.1.0" (instance $types
        (type $record
          (record (field "code" string) (field "message" string) (field "retryable" bool)))
        (export "actor-error" (type (eq $record)))))
      (alias export $types "actor-error" (type $actor-error))
      (import "plexspaces:application/messaging@0.1.0" (instance
        (alias outer 1 $actor-error (type $imported))
        (export "actor-error" (type $error (eq $imported)))
        (export "tell" (func
          (param "to" string) (param "msg-type" string) (param "payload" (list u8))
          (result (result (error $error)))))
        (export "ask" (func
          (param "to" string) (param "msg-type" string) (param "payload" (list u8))
          (param "timeout-ms" u32)
          (result (result (list u8) (error $error)))))))
      (export "plexspaces:application/actor@0.1.0" (instance
        (alias outer 1 $actor-error (type $imported))
        (export "actor-error" (type $error (eq $imported)))
        (export "init" (func (param "initial-state" (list u8)) (result (result (error string)))))
        (export "handle-message" (func
          (param "sender" string) (param "msg-type" string) (param "payload" (list u8))
          (result (result (list u8) (error $error)))))
        (export "snapshot-state" (func (result (list u8))))
        (export "shutdown" (func))))))
    (export "plexspaces:application/application@0.1.0" (component (type $world)))))
  (export "application" (type $package)))
