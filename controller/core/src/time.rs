//! Times as the services write them. All are UTC; the database holds Unix milliseconds.

use chrono::{DateTime, Utc};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_utc_and_end_in_z() {
        assert_eq!(seconds(1_767_323_045_678), "2026-01-02T03:04:05Z");
        assert_eq!(micros(1_767_323_045_678), "2026-01-02T03:04:05.678000Z");
    }
}
