//! A blocking client for the VMM's socket: one connection a request, every step bounded by a
//! timeout. For callers with a runtime it is to be run on a blocking thread.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ActionRequest, ActionType, FaultMessage, InstanceInfo, REQUEST_ID_HEADER};
use crate::{VmStateRequest, VmStateUpdate};

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// Why a request to a VMM had no success.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket, or not in time.
    #[error("VMM socket {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The VMM refused.
    #[error("VMM refused {method} {target}: {fault} (status {status})")]
    Fault {
        /// The request's method.
        method: &'static str,
        /// The request's path.
        target: String,
        /// The status code.
        status: u16,
        /// `fault_message`, or the body where there is none.
        fault: String,
    },
    /// The answer is no HTTP, or not the JSON that was asked for.
    #[error("VMM socket {path}: not understood: {why}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What was wrong with the answer.
        why: String,
    },
}

/// A VMM's API socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    request_id: Option<String>,
}

impl Client {
    /// A client for the socket at `socket`; it connects with each request.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client {
            socket: socket.into(),
            timeout: Duration::from_secs(10),
            request_id: None,
        }
    }

    /// Waits at most this long in each step of a request.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// Sends this request id, which the VMM writes into its log.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Client {
        self.request_id = Some(id.into());
        self
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /`: who is there, in which state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn info(&self) -> Result<InstanceInfo, ClientError> {
        self.get("/")
    }

    /// `PUT /actions`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn action(&self, action_type: ActionType) -> Result<(), ClientError> {
        self.put("/actions", &ActionRequest { action_type })
    }

    /// `PATCH /vm`: pause or resume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_state(&self, state: VmStateUpdate) -> Result<(), ClientError> {
        self.patch("/vm", &VmStateRequest { state })
    }

    /// GET, with the answer's JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let body = self.request("GET", target, &[])?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(error.to_string()))
    }

    /// PUT, with a body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn put<T: Serialize>(&self, target: &str, body: &T) -> Result<(), ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(error.to_string()))?;
        self.request("PUT", target, &body).map(drop)
    }

    /// PATCH, with a body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn patch<T: Serialize>(&self, target: &str, body: &T) -> Result<(), ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(error.to_string()))?;
        self.request("PATCH", target, &body).map(drop)
    }

    fn request(
        &self,
        method: &'static str,
        target: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, ClientError> {
        let answer = self
            .exchange(method, target, body)
            .map_err(|source| ClientError::Socket {
                path: self.socket.clone(),
                source,
            })?;
        let (status, body) = split_answer(&answer).map_err(|why| self.protocol(why))?;
        if (200..300).contains(&status) {
            return Ok(body.to_vec());
        }
        let fault = serde_json::from_slice::<FaultMessage>(body)
            .map(|fault| fault.fault_message)
            .unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
        Err(ClientError::Fault {
            method,
            target: target.to_owned(),
            status,
            fault,
        })
    }

    /// Sends one request and reads until the VMM closes the connection.
    fn exchange(&self, method: &str, target: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        // A line break in an id would end the header; such an id is not sent.
        if let Some(id) = self
            .request_id
            .as_deref()
            .filter(|id| !id.contains(['\r', '\n']))
        {
            request.push_str(&format!("{REQUEST_ID_HEADER}: {id}\r\n"));
        }
        if !body.is_empty() {
            let length = body.len();
            request.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        stream.write_all(&bytes)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn protocol(&self, why: String) -> ClientError {
        ClientError::Protocol {
            path: self.socket.clone(),
            why,
        }
    }
}

/// The status code and the body of a whole answer.
fn split_answer(answer: &[u8]) -> Result<(u16, &[u8]), String> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| format!("{} bytes without an end of the header", answer.len()))?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|error| error.to_string())?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| format!("no status line in `{}`", head.lines().next().unwrap_or("")))?;
    Ok((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixListener;

    use super::*;

    fn serve_once(answer: &'static str) -> (PathBuf, std::thread::JoinHandle<String>) {
        let unique = format!("berth-api-{}-{:p}", std::process::id(), answer);
        let path = std::env::temp_dir().join(unique);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (path, thread)
    }

    #[test]
    fn a_refusal_is_reported_in_the_vmms_words() {
        let (path, thread) =
            serve_once("HTTP/1.1 400 \r\nContent-Length: 24\r\n\r\n{\"fault_message\":\"full\"}");
        let client = Client::new(&path).with_request_id("req-1");
        let error = client.action(ActionType::InstanceStart).unwrap_err();
        assert_eq!(
            error.to_string(),
            "VMM refused PUT /actions: full (status 400)"
        );
        let request = thread.join().unwrap();
        assert!(
            request.contains("x-openstack-request-id: req-1\r\n"),
            "{request}"
        );
        assert!(
            request.ends_with(r#"{"action_type":"InstanceStart"}"#),
            "{request}"
        );
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_no_panic() {
        for answer in [
            "",
            "HTTP/1.",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "x\r\n\r\n",
        ] {
            assert!(split_answer(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn a_socket_where_nobody_listens_is_named() {
        let error = Client::new("/nonexistent/vmm.sock").info().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("VMM socket /nonexistent/vmm.sock: "),
            "{error}"
        );
    }
}
