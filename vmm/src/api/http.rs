//! HTTP/1.1, as little as the API needs: a request line, headers, a body of known length.
//!
//! Guarantees: a client cannot make the VMM hold more than [`MAX_HEAD`] bytes of header and the
//! payload limit of body; what is not understood is answered with a code, and the connection is
//! closed where the end of the request is not known.

use std::io::{self, Read, Write};

/// The longest header, in bytes.
pub const MAX_HEAD: usize = 16 << 10;

/// The methods that the API has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        })
    }
}

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, without a query.
    pub path: String,
    /// The body; None if it is empty.
    pub body: Option<Vec<u8>>,
    /// OpenStack's request id.
    pub request_id: Option<String>,
    /// The client closes, or wants us to close, after the answer.
    pub close: bool,
}

/// Why there is no request.
#[derive(Debug)]
pub enum ReadError {
    /// The client has gone, or is silent.
    Gone,
    /// It is no request of ours: code and text. The connection cannot be used further.
    Bad(u16, String),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> ReadError {
        ReadError::Gone
    }
}

/// One end of a connection, with what was read beyond the last request.
pub struct Connection<S> {
    stream: S,
    buffer: Vec<u8>,
    max_payload: usize,
}

impl<S: Read + Write> Connection<S> {
    /// A connection whose bodies have `max_payload` bytes at most.
    pub fn new(stream: S, max_payload: usize) -> Connection<S> {
        Connection {
            stream,
            buffer: Vec::new(),
            max_payload,
        }
    }

    /// Reads the next request.
    ///
    /// # Errors
    /// If there is none, or it is not understood.
    pub fn read(&mut self) -> Result<Request, ReadError> {
        let end = self.read_head()?;
        let head = self.buffer.drain(..end).collect::<Vec<u8>>();
        let bad = |why: &str| ReadError::Bad(400, why.to_owned());
        let head = std::str::from_utf8(&head).map_err(|_| bad("The header is not UTF-8."))?;
        let mut lines = head.split("\r\n");
        let (method, path) = parse_request_line(lines.next().unwrap_or(""))?;
        let mut length = None;
        let (mut close, mut expects, mut request_id) = (false, false, None);
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| bad("Invalid header: no colon."))?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                    let found = value.parse::<usize>().ok().filter(|_| digits);
                    let found = found.ok_or_else(|| bad("Invalid Content-Length."))?;
                    // RFC 9112, 6.3: two that differ leave the end of the request unknown.
                    if length.is_some_and(|length| length != found) {
                        return Err(bad("Content-Length is given twice."));
                    }
                    length = Some(found);
                }
                "transfer-encoding" => return Err(bad("Transfer-Encoding is not supported.")),
                "connection" => close = value.eq_ignore_ascii_case("close"),
                "expect" => expects = value.eq_ignore_ascii_case("100-continue"),
                name if name == berth_vmm_api::REQUEST_ID_HEADER => {
                    request_id = Some(value.to_owned());
                }
                _ => {}
            }
        }
        let length = length.unwrap_or(0);
        if length > self.max_payload {
            let text = format!(
                "Request payload with size {length} is larger than the limit of {} allowed by \
                 server.\nAll previous unanswered requests will be dropped.",
                self.max_payload
            );
            return Err(ReadError::Bad(413, text));
        }
        if expects && self.buffer.len() < length {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while self.buffer.len() < length {
            self.fill()?;
        }
        let body: Vec<u8> = self.buffer.drain(..length).collect();
        let body = (!body.is_empty()).then_some(body);
        Ok(Request {
            method,
            path,
            body,
            request_id,
            close,
        })
    }

    /// Reads until the empty line; the number of bytes up to its end.
    fn read_head(&mut self) -> Result<usize, ReadError> {
        loop {
            let found = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n");
            match found {
                Some(start) if start <= MAX_HEAD => return Ok(start + 4),
                _ if self.buffer.len() > MAX_HEAD => {
                    return Err(ReadError::Bad(400, "The header is too long.".to_owned()));
                }
                _ => self.fill()?,
            }
        }
    }

    fn fill(&mut self) -> Result<(), ReadError> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk)? {
            0 => Err(ReadError::Gone),
            got => {
                self.buffer.extend_from_slice(&chunk[..got]);
                Ok(())
            }
        }
    }

    /// Writes an answer. A body is JSON.
    ///
    /// # Errors
    /// If the client has gone.
    pub fn write(&mut self, answer: &Answer) -> io::Result<()> {
        let Answer {
            status,
            body,
            deprecated,
            close,
        } = answer;
        let mut text = format!("HTTP/1.1 {status} \r\nServer: Firecracker API\r\n");
        text.push_str(if *close {
            "Connection: close\r\n"
        } else {
            "Connection: keep-alive\r\n"
        });
        if *deprecated {
            text.push_str("Deprecation: true\r\n");
        }
        if let Some(body) = body {
            let length = body.len();
            text.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        } else {
            text.push_str("\r\n");
        }
        self.stream.write_all(text.as_bytes())
    }
}

/// What goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// JSON; None with 204.
    pub body: Option<String>,
    /// The request used a deprecated field.
    pub deprecated: bool,
    /// The connection ends with this answer.
    pub close: bool,
}

fn parse_request_line(line: &str) -> Result<(Method, String), ReadError> {
    let bad = |why: &str| ReadError::Bad(400, why.to_owned());
    let mut words = line.split(' ');
    let method = match words.next() {
        Some("GET") => Method::Get,
        Some("PUT") => Method::Put,
        Some("PATCH") => Method::Patch,
        Some("DELETE") => Method::Delete,
        _ => return Err(bad("Unsupported HTTP method.")),
    };
    let uri = words.next().unwrap_or("");
    if !matches!(words.next(), Some("HTTP/1.1" | "HTTP/1.0")) || words.next().is_some() {
        return Err(bad("Unsupported HTTP version."));
    }
    // Some clients send the absolute form.
    let uri = match uri.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => uri,
    };
    let path = uri.split('?').next().unwrap_or("");
    if !path.starts_with('/') {
        return Err(bad("Invalid URI."));
    }
    Ok((method, path.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A client that sends a byte at a time.
    struct Slow(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn connection(bytes: &[u8]) -> Connection<Slow> {
        Connection::new(Slow(io::Cursor::new(bytes.to_vec()), Vec::new()), 64)
    }

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let mut connection = connection(
            b"PUT /actions HTTP/1.1\r\nContent-Length: 2\r\nX-OpenStack-Request-ID: req-1\r\n\r\n{}\
              GET /vm/config?x=1 HTTP/1.1\r\nConnection: close\r\n\r\n",
        );
        let first = connection.read().unwrap();
        assert_eq!(
            (first.method, first.path.as_str()),
            (Method::Put, "/actions")
        );
        assert_eq!(first.body.as_deref(), Some(&b"{}"[..]));
        assert_eq!(first.request_id.as_deref(), Some("req-1"));
        let second = connection.read().unwrap();
        assert_eq!((second.path.as_str(), second.close), ("/vm/config", true));
        assert!(matches!(connection.read(), Err(ReadError::Gone)));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_before_it_is_read() {
        let mut connection = connection(b"PUT / HTTP/1.1\r\nContent-Length: 65\r\n\r\n");
        assert!(matches!(connection.read(), Err(ReadError::Bad(413, _))));
    }

    #[test]
    fn what_is_no_request_is_refused_and_never_panics() {
        let cases: [&[u8]; 10] = [
            b"\r\n\r\n",
            b"POST / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/2\r\n\r\n",
            b"GET nowhere HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
            b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        for bytes in cases {
            let result = connection(bytes).read();
            assert!(
                matches!(result, Err(ReadError::Bad(400, _))),
                "{bytes:?}: {result:?}"
            );
        }
        assert!(matches!(
            connection(&vec![b'x'; 20_000]).read(),
            Err(ReadError::Bad(400, _))
        ));
        assert!(matches!(
            connection(b"GET / HTTP/1.1\r\n\xff\r\n\r\n").read(),
            Err(ReadError::Bad(..))
        ));
    }

    #[test]
    fn a_client_that_waits_to_send_its_body_is_told_to() {
        let mut connection =
            connection(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}");
        connection.read().unwrap();
        assert_eq!(connection.stream.1, b"HTTP/1.1 100 Continue\r\n\r\n");
    }
}
