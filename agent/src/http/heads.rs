//! The heads of requests and responses, as they cross the link.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, request, response};

use crate::link::proto::{Failure, Header, RequestHead, ResponseHead};

/// Make a request of its head and its body.
pub(crate) fn request_of<B>(head: RequestHead, body: B) -> Result<Request<B>, Failure> {
    let uri = Uri::builder()
        .scheme(head.scheme.as_str())
        .authority(head.authority)
        .path_and_query(head.path)
        .build();
    let mut request = Request::builder()
        .method(head.method.as_bytes())
        .uri(uri.map_err(|error| malformed(&error))?)
        .body(body)
        .map_err(|error| malformed(&error))?;
    *request.headers_mut() = headers_of(head.headers).map_err(|error| malformed(&error))?;
    Ok(request)
}

/// Make a response of its head and its body.
pub(crate) fn response_of<B>(head: ResponseHead, body: B) -> http::Result<Response<B>> {
    let status = u16::try_from(head.status).unwrap_or(0);
    let mut response = Response::builder().status(status).body(body)?;
    *response.headers_mut() = headers_of(head.headers)?;
    Ok(response)
}

/// Return the head of a request that an application sends.
pub(crate) fn head_of_request(parts: request::Parts, more: bool) -> RequestHead {
    let uri = parts.uri;
    RequestHead {
        method: parts.method.to_string(),
        scheme: uri.scheme_str().unwrap_or_default().to_owned(),
        authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
        path: uri.path_and_query().map_or_else(
            || "/".to_owned(),
            |path| match path.as_str() {
                all if all.starts_with('/') => all.to_owned(),
                query => format!("/{query}"),
            },
        ),
        headers: headers_from(&parts.headers),
        more,
    }
}

/// Return the head of a response.
pub(crate) fn head_of_response(parts: &response::Parts) -> ResponseHead {
    ResponseHead {
        status: parts.status.as_u16().into(),
        headers: headers_from(&parts.headers),
    }
}

fn headers_of(headers: Vec<Header>) -> http::Result<HeaderMap> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for Header { name, value } in headers {
        map.try_append(
            HeaderName::from_bytes(name.as_bytes())?,
            HeaderValue::from_maybe_shared(Bytes::from(value))?,
        )?;
    }
    Ok(map)
}

fn headers_from(map: &HeaderMap) -> Vec<Header> {
    map.iter()
        .map(|(name, value)| Header {
            name: name.as_str().to_owned(),
            value: value.as_bytes().to_vec(),
        })
        .collect()
}

fn malformed(error: &http::Error) -> Failure {
    Failure::platform("invalid_argument", format!("not a request: {error}"))
}
