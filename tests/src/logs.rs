//! Logs as a failed test shows them: few lines, each short, and nothing that says only that all
//! is well. The services log JSON lines, which are exact but long.

use serde_json::Value;

/// Longer lines are cut, in characters.
const WIDTH: usize = 240;

/// The last `count` lines of a log that tell something, shortened: requests that were answered
/// without an error are left out.
#[must_use]
pub fn brief(log: &str, count: usize) -> String {
    let told: Vec<String> = log.lines().filter_map(line).collect();
    let first = told.len().saturating_sub(count);
    told.iter()
        .skip(first)
        .map(|line| format!("  {line}\n"))
        .collect()
}

fn line(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return None;
    }
    let Ok(entry) = serde_json::from_str::<Value>(text) else {
        return Some(cut(text));
    };
    let message = entry["message"].as_str()?;
    if message == "answered" && entry["status"].as_u64().is_some_and(|status| status < 400) {
        return None;
    }
    let time = entry["timestamp"].as_str().unwrap_or_default();
    let time = time.get(11..23).unwrap_or(time);
    let mut told = format!(
        "{time} {} {message}",
        entry["level"].as_str().unwrap_or_default()
    );
    let described = ["message", "timestamp", "level", "target", "span", "spans"];
    let own = entry.as_object().into_iter().flatten();
    let own = own.filter(|(name, _)| !described.contains(&name.as_str()));
    let span = entry["span"].as_object().into_iter().flatten();
    let span = span.filter(|(name, _)| ["method", "request_id", "vmm_id"].contains(&name.as_str()));
    for (name, value) in own.chain(span) {
        told += &format!(
            " {name}={}",
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        );
    }
    Some(cut(&told))
}

fn cut(line: &str) -> String {
    line.chars().take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_left_out_and_the_rest_is_short() {
        let log = concat!(
            r#"{"timestamp":"2026-11-20T17:04:26.667728Z","level":"INFO","message":"answered","status":200,"target":"t"}"#,
            "\nnot JSON\n\n",
            r#"{"timestamp":"2026-11-20T17:04:27.667728Z","level":"WARN","message":"no","error":"x","target":"t","span":{"request_id":"req-1","name":"n"},"spans":[]}"#,
            "\n",
        );
        assert_eq!(
            brief(log, 9),
            "  not JSON\n  17:04:27.667 WARN no error=x request_id=req-1\n"
        );
        assert_eq!(
            brief(log, 1),
            "  17:04:27.667 WARN no error=x request_id=req-1\n"
        );
        assert_eq!(brief(&"x".repeat(1000), 1).len(), WIDTH + 3);
    }
}
