//! Times as the services write them. All are UTC; the database holds Unix milliseconds.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

fn utc(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::UNIX_EPOCH)
}

/// `2026-01-02T03:04:05Z`: Nova, Neutron and Glance.
pub fn seconds(millis: i64) -> String {
    utc(millis).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.678000Z`: Keystone.
pub fn micros(millis: i64) -> String {
    utc(millis).format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// As [`micros`], without its `Z`, of Unix microseconds.
pub fn exact(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH);
    time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// ISO 8601, with a zone or without one (then UTC), to Unix milliseconds.
pub fn parse(text: &str) -> Option<i64> {
    Some(parse_utc(text)?.timestamp_millis())
}

/// As [`parse`], to Unix microseconds.
pub fn parse_exact(text: &str) -> Option<i64> {
    Some(parse_utc(text)?.timestamp_micros())
}

fn parse_utc(text: &str) -> Option<DateTime<Utc>> {
    // A `+` of a query string may have become a space.
    let text = text.trim().replace(' ', "+");
    if let Ok(time) = DateTime::parse_from_rfc3339(&text) {
        return Some(time.to_utc());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d+%H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(&text, format) {
            return Some(time.and_utc());
        }
    }
    let day = NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_utc_and_end_in_z() {
        assert_eq!(seconds(1_767_323_045_678), "2026-01-02T03:04:05Z");
        assert_eq!(micros(1_767_323_045_678), "2026-01-02T03:04:05.678000Z");
    }

    #[test]
    fn a_time_without_a_zone_is_utc() {
        let at = Some(1_767_323_045_000);
        for text in [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05",
            "2026-01-02T04:04:05+01:00",
            "2026-01-02T04:04:05 01:00",
        ] {
            assert_eq!(parse(text), at, "{text}");
        }
        assert_eq!(parse("2026-01-02"), Some(1_767_312_000_000));
        assert_eq!(parse("yesterday"), None);
    }
}
