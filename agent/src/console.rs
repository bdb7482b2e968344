//! The end of a guest's console.

/// The last `lines` lines of `text`, or all of it. A line end at the very end ends a line, it
/// does not begin one.
pub(crate) fn last_lines(text: &str, lines: Option<u32>) -> &str {
    let Some(lines) = lines else {
        return text;
    };
    if lines == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    let wanted = usize::try_from(lines).unwrap_or(usize::MAX);
    body.rmatch_indices('\n')
        .nth(wanted - 1)
        .map_or(text, |(at, _)| &text[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        assert_eq!(last_lines("a\nb\nc\n", Some(2)), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", Some(1)), "c");
        assert_eq!(last_lines("a\nb\n", Some(9)), "a\nb\n");
        assert_eq!(last_lines("a\n", None), "a\n");
        assert_eq!(last_lines("a\n", Some(0)), "");
        assert_eq!(last_lines("", Some(3)), "");
    }
}
