  ;; HTTP requests, for a module that imports them: a node that does not know them runs the others.
  (import "plexspaces:application/http@0.1.0" (instance $http
    (alias outer 1 $actor-error (type $error))
    (export "actor-error" (type $actor-error (eq $error)))
    (type $headers (list (tuple string (list u8))))
    (type $request-record (record (field "method" string) (field "url" string) (field "headers" $headers)
      (field "body" (list u8)) (field "timeout-ms" u32)))
    (export "request" (type $request (eq $request-record)))
    (type $response-record (record (field "status" u16) (field "headers" $headers) (field "body" (list u8))))
    (export "response" (type $response (eq $response-record)))
    (export "fetch" (func (param "request" $request) (result (result $response (error $actor-error)))))))
