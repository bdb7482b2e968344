//! Medians, spread and ratios, as a table or as JSON.

use serde::Serialize;

/// One program's measurements.
#[derive(Debug, Serialize)]
pub struct Series {
    /// The program's name.
    pub name: String,
    /// In the order they were taken.
    pub milliseconds: Vec<f64>,
}

/// What a series comes to.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The program's name.
    pub name: String,
    /// How many.
    pub runs: usize,
    /// Milliseconds.
    pub median: f64,
    /// Milliseconds.
    pub least: f64,
    /// Milliseconds.
    pub most: f64,
    /// Half of the values lie within this many milliseconds (75th less 25th percentile).
    pub spread: f64,
    /// The first series' median divided by this one's: below 1 the first is faster.
    pub ratio: f64,
}

/// Sums up; the first series is what the others are compared with.
pub fn summarise(all: &[Series]) -> Vec<Summary> {
    let first = all
        .first()
        .map_or(f64::NAN, |series| quantile(&series.milliseconds, 0.5));
    all.iter()
        .map(|series| {
            let values = &series.milliseconds;
            let median = quantile(values, 0.5);
            Summary {
                name: series.name.clone(),
                runs: values.len(),
                median,
                least: quantile(values, 0.0),
                most: quantile(values, 1.0),
                spread: quantile(values, 0.75) - quantile(values, 0.25),
                ratio: first / median,
            }
        })
        .collect()
}

/// The table for a person.
pub fn table(summaries: &[Summary]) -> String {
    let width = summaries
        .iter()
        .map(|s| s.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let first = summaries.first().map_or("", |s| s.name.as_str());
    let mut text = format!(
        "{:<width$}  {:>4}  {:>9}  {:>9}  {:>9}  {:>9}  {first}/it\n",
        "VMM", "runs", "median ms", "least ms", "most ms", "spread ms"
    );
    for s in summaries {
        text.push_str(&format!(
            "{:<width$}  {:>4}  {:>9.2}  {:>9.2}  {:>9.2}  {:>9.2}  {:.3}\n",
            s.name, s.runs, s.median, s.least, s.most, s.spread, s.ratio
        ));
    }
    text
}

/// The value below which `at` (0 to 1) of the values lie, interpolated.
pub fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let position = at * last as f64;
    let below = sorted
        .get(position.floor() as usize)
        .copied()
        .unwrap_or(f64::NAN);
    let above = sorted
        .get(position.ceil() as usize)
        .copied()
        .unwrap_or(f64::NAN);
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn medians_and_ratios_are_what_they_say() {
        let all = [
            Series {
                name: "berth".into(),
                milliseconds: vec![3.0, 1.0, 2.0],
            },
            Series {
                name: "peer".into(),
                milliseconds: vec![8.0, 4.0, 2.0, 6.0],
            },
        ];
        let summaries = summarise(&all);
        assert_eq!(
            (summaries[0].median, summaries[0].least, summaries[0].most),
            (2.0, 1.0, 3.0)
        );
        assert_eq!((summaries[1].median, summaries[1].ratio), (5.0, 0.4));
        assert_eq!(summaries[1].spread, 3.0);
    }

    #[test]
    fn an_empty_series_is_not_a_number_rather_than_a_panic() {
        assert!(quantile(&[], 0.5).is_nan());
    }
}
