//! Finds what must not stay in free text: card numbers and e-mail addresses.

/// Whether `text` holds what looks like a card number or an e-mail address.
pub(super) fn is_personal(text: &str) -> bool {
    has_card_number(text.as_bytes()) || has_email(text)
}

/// Digits of a card number.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;

/// Whether 13 to 19 digits pass the Luhn check. They may stand in groups with single blanks or hyphens between them;
/// any groups of a row are tried together, as an expiry date may follow.
fn has_card_number(text: &[u8]) -> bool {
    let mut digits: Vec<u8> = Vec::new();
    // Where groups begin, and where the last one ends.
    let mut bounds: Vec<usize> = vec![0];
    let mut in_group = false;
    for byte in text.iter().chain(b"\0") {
        match byte {
            b'0'..=b'9' => {
                digits.push(byte - b'0');
                in_group = true;
            }
            b' ' | b'-' if in_group => {
                bounds.push(digits.len());
                in_group = false;
            }
            _ => {
                bounds.push(digits.len());
                if any_groups(&digits, &bounds) {
                    return true;
                }
                digits.clear();
                bounds.truncate(1);
                in_group = false;
            }
        }
    }
    false
}

fn any_groups(digits: &[u8], bounds: &[usize]) -> bool {
    bounds.iter().enumerate().any(|(at, start)| {
        bounds[at + 1..]
            .iter()
            .take_while(|end| **end - start <= *CARD_DIGITS.end())
            .any(|end| end - start >= *CARD_DIGITS.start() && is_luhn(&digits[*start..*end]))
    })
}

fn is_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let value = u32::from(*digit) << (at % 2);
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != 0)
}

/// Whether a word has the form `a@b.c`.
fn has_email(text: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || "<>()[],;:\"".contains(c)).any(|word| {
        word.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && host.split_once('.').is_some_and(|(name, rest)| !name.is_empty() && !rest.is_empty())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_numbers_and_addresses_are_found_and_plain_names_are_not() {
        for text in [
            "4242424242424242",
            "Card 4242 4242 4242 4242, please",
            "3782-822463-10005",
            "x4000000000000002y",
            "5555 5555 5555 4444 12/29",
            "jenny@example.com",
            "Plan for <jenny.rosen@example.co.uk>",
        ] {
            assert!(is_personal(text), "{text}");
        }
        for text in [
            "Pro 2024",
            "4242424242424241",
            "1 2024-01-01 00:00",
            "+15555550123",
            "0000000000000000",
            "2 @ 5.00",
            "@home plan",
            "a@b",
        ] {
            assert!(!is_personal(text), "{text}");
        }
    }
}
