//! Writing JSON by hand, fast: values are put into one reused buffer between literal pieces of text.
//!
//! Promises that `undo` makes Stripe's `previous_attributes`: what must be merged into the new object to have the old
//! one back. Leaves to the callers that their literals are JSON and that texts need no escapes.

use super::ids::Id;

/// Something that writes itself as JSON text.
pub(super) trait Put {
    fn put(&self, out: &mut Vec<u8>);
}

/// Writes literals (verbatim) and values one after another.
macro_rules! put {
    ($out:expr; $($part:expr),* $(,)?) => {{
        let out: &mut Vec<u8> = $out;
        $( $crate::simulate::json::Put::put(&$part, out); )*
    }};
}
pub(super) use put;

/// A text between quotes; must not need escapes.
pub(super) struct Text<'a>(pub(super) &'a str);

/// An identifier without quotes, for use inside texts.
pub(super) struct Bare(pub(super) Id);

impl Put for &str {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl Put for &[u8] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Put for Text<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.0.as_bytes());
        out.push(b'"');
    }
}

impl Put for Id {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.as_bytes());
        out.push(b'"');
    }
}

impl Put for Bare {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
}

impl Put for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut rest = self.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if *self < 0 {
            out.push(b'-');
        }
        out.extend_from_slice(&digits[at..]);
    }
}

impl Put for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        i64::from(*self).put(out);
    }
}

impl Put for bool {
    fn put(&self, out: &mut Vec<u8>) {
        if *self { "true" } else { "false" }.put(out);
    }
}

impl<T: Put> Put for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.put(out),
            None => "null".put(out),
        }
    }
}

/// Writes the `previous_attributes` that turn `new` back into `old`: changed keys with their old values, objects
/// only as far as they changed, arrays whole. Both texts are objects with the same keys in the same order.
pub(super) fn undo(old: &[u8], new: &[u8], out: &mut Vec<u8>) {
    out.push(b'{');
    let (mut left, mut right, mut first) = (1, 1, true);
    while left < old.len() && old[left] == b'"' {
        let key_end = value_end(old, left);
        let value = key_end + 1;
        let end = value_end(old, value);
        let shift = right + (value - left);
        debug_assert_eq!(&old[left..value], &new[right..shift], "the two objects have different keys");
        let same = new.get(shift..shift + (end - value)) == Some(&old[value..end])
            && matches!(new.get(shift + (end - value)), Some(b',' | b'}'));
        let new_end = if same { shift + (end - value) } else { value_end(new, shift) };
        if !same {
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(&old[left..value]);
            if old[value] == b'{' && new[shift] == b'{' {
                undo(&old[value..end], &new[shift..new_end], out);
            } else {
                out.extend_from_slice(&old[value..end]);
            }
        }
        left = end + 1;
        right = new_end + 1;
    }
    out.push(b'}');
}

/// Where the value that begins at `at` ends (the position behind it).
fn value_end(text: &[u8], at: usize) -> usize {
    let mut depth = 0_u32;
    let mut here = at;
    while here < text.len() {
        match text[here] {
            b'"' => {
                here += 1;
                while text[here] != b'"' {
                    here += if text[here] == b'\\' { 2 } else { 1 };
                }
                if depth == 0 {
                    return here + 1;
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return here,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return here + 1;
                }
            }
            b',' if depth == 0 => return here,
            _ => {}
        }
        here += 1;
    }
    here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_lists_changed_keys_with_old_values_and_arrays_whole() {
        let old = br#"{"a":1,"b":{"x":"p","y":[1,2]},"c":null,"d":[{"e":1},{"e":"}"}],"f":12}"#;
        let new = br#"{"a":1,"b":{"x":"q","y":[1,2]},"c":{"z":1},"d":[{"e":2},{"e":"}"}],"f":1}"#;
        let mut out = Vec::new();
        undo(old, new, &mut out);
        assert_eq!(out, br#"{"b":{"x":"p"},"c":null,"d":[{"e":1},{"e":"}"}],"f":12}"#);
    }

    #[test]
    fn numbers_are_written_as_json_numbers() {
        let mut out = Vec::new();
        put!(&mut out; 0_i64, ",", -12_i64, ",", i64::MIN, ",", None::<i64>, ",", true);
        assert_eq!(out, b"0,-12,-9223372036854775808,null,true");
    }
}
