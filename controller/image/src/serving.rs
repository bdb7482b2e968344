//! Bytes for agents: `GET /agent/v1/images/{id}` with the token of an [`ImageSpec`].
//!
//! [`ImageSpec`]: berth_rpc_types::ImageSpec

use super::{files, refuse};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_controller_core::agent::{AgentError, bearer};
use berth_controller_core::{ApiError, AppState, params, secret};
use berth_rpc_types::ImageId;
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// A part of a file: first byte, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u64,
    length: u64,
}

/// Reads one `bytes=a-b`, `bytes=a-` or `bytes=-n`. `Ok(None)` for a header that is to be
/// ignored (several ranges, other units); `Err` for a range that the file has no byte of.
fn span(range: &str, size: u64) -> Result<Option<Span>, ()> {
    let Some(range) = range.trim().strip_prefix("bytes=") else {
        return Ok(None);
    };
    let Some((from, to)) = range.split_once('-').filter(|_| !range.contains(',')) else {
        return Ok(None);
    };
    let (start, end) = match (from.trim().parse::<u64>(), to.trim().parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.min(size.saturating_sub(1))),
        (Ok(start), Err(_)) if to.trim().is_empty() => (start, size.saturating_sub(1)),
        (Err(_), Ok(last)) if from.trim().is_empty() => {
            if last == 0 {
                return Err(());
            }
            (size.saturating_sub(last), size.saturating_sub(1))
        }
        _ => return Ok(None),
    };
    if start >= size {
        return Err(());
    }
    Ok(Some(Span {
        start,
        length: end - start + 1,
    }))
}

/// Image bytes, under `/agent/v1`.
pub fn agent_router(app: AppState) -> Router {
    Router::new()
        .route("/agent/v1/images/{id}", get(images))
        .with_state(app)
}

/// Streams an image, or a range of it, to an agent whose operation still runs.
async fn images(
    State(app): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let (Ok(id), Some(token)) = (id.parse(), bearer(&headers)) else {
        let why = "an image's id and its bearer token are needed".to_owned();
        return AgentError::Refused(StatusCode::UNAUTHORIZED, why).into_response();
    };
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    match serve(&app, id, token, range).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn serve(
    app: &AppState,
    image_id: ImageId,
    token: &str,
    range: Option<&str>,
) -> Result<Response, ApiError> {
    let hash = secret::digest(token);
    let good = app
        .store
        .tx(|tx| {
            let hash = hash.clone();
            Box::pin(async move {
                let sql = "SELECT i.sha512 FROM image_tokens t \
                           JOIN operations o ON o.id = t.operation_id \
                           JOIN images i ON i.id = t.image_id \
                           WHERE t.token_hash = $1 AND t.image_id = $2 AND o.finished_at IS NULL";
                Ok::<_, ApiError>(
                    tx.query_opt::<(Option<String>,)>(sql, params![hash, image_id])
                        .await?,
                )
            })
        })
        .await?;
    let Some((sha512,)) = good else {
        return Err(refuse(
            StatusCode::UNAUTHORIZED,
            "The token is not for this image, or its operation is over, or the image is gone.",
        ));
    };
    stream(app, image_id.0, &sha512.unwrap_or_default(), range).await
}

/// Streams an image's file, or one range of it.
///
/// # Errors
/// 404 for a file that is not there, 416 for a range outside it.
pub async fn stream(
    app: &AppState,
    id: uuid::Uuid,
    sha512: &str,
    range: Option<&str>,
) -> Result<Response, ApiError> {
    let path = files::path(&app.image_dir, id, sha512);
    let gone = |error: std::io::Error| {
        tracing::error!(path = %path.display(), %error, "an image's file cannot be read");
        refuse(
            StatusCode::NOT_FOUND,
            format!("The data of image {id} cannot be read; the log has the cause."),
        )
    };
    let opened = match tokio::fs::File::open(&path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tokio::fs::File::open(files::older_path(&app.image_dir, id)).await
        }
        opened => opened,
    };
    let mut file = opened.map_err(gone)?;
    let size = file.metadata().await.map_err(gone)?.len();
    let part = match range.map(|r| span(r, size)) {
        None | Some(Ok(None)) => None,
        Some(Ok(part)) => part,
        Some(Err(())) => {
            let mut response = refuse(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("The image has {size} bytes; the range is outside them."),
            )
            .into_response();
            insert(
                &mut response,
                header::CONTENT_RANGE,
                &format!("bytes */{size}"),
            );
            return Ok(response);
        }
    };
    let Span { start, length } = part.unwrap_or(Span {
        start: 0,
        length: size,
    });
    file.seek(SeekFrom::Start(start)).await.map_err(gone)?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), 256 << 10));
    let mut response = body.into_response();
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = start + length - 1;
        insert(
            &mut response,
            header::CONTENT_RANGE,
            &format!("bytes {start}-{last}/{size}"),
        );
    }
    insert(
        &mut response,
        header::CONTENT_TYPE,
        "application/octet-stream",
    );
    insert(&mut response, header::CONTENT_LENGTH, &length.to_string());
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    Ok(response)
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_first_to_last_open_or_from_the_end() {
        let some = |start, length| Ok(Some(Span { start, length }));
        for (range, expected) in [
            ("bytes=0-0", some(0, 1)),
            ("bytes=2-", some(2, 8)),
            ("bytes=-3", some(7, 3)),
            ("bytes=-30", some(0, 10)),
            ("bytes=5-99", some(5, 5)),
            ("bytes=10-", Err(())),
            ("bytes=-0", Err(())),
            ("bytes=1-2,4-5", Ok(None)),
            ("bytes=5-2", Ok(None)),
            ("lines=1-2", Ok(None)),
            ("bytes=x-y", Ok(None)),
        ] {
            assert_eq!(span(range, 10), expected, "{range}");
        }
        assert_eq!(span("bytes=0-", 0), Err(()));
    }
}
