//! Sizes, rates and durations as people write and read them.
//!
//! A unit says what it means: `MiB` is 1024 * 1024, `MB` 10^6 bytes, `Mbit/s` 10^6 bits a second. `M` and `Mb` alone mean
//! one thing to one program and another to the next, so they are refused with both spellings as the advice.

use std::time::Duration;

/// Bytes: `1048576`, `256MiB`, `1.5GB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    match bytes_in(unit) {
        Some(bytes) => whole(number * bytes, text),
        None => Err(unknown_unit(text, unit, "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB")),
    }
}

/// Bytes per second: `25MB/s`, `200Mbit/s`, `1Gbit`; a bare number is bytes per second.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let amount = unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps")).unwrap_or(unit);
    let bytes = match amount.strip_suffix("bit") {
        Some(prefix) => decimal(prefix).map(|bits| bits / 8.0),
        None => bytes_in(amount),
    };
    match bytes {
        Some(bytes) => whole(number * bytes, text),
        None => Err(unknown_unit(text, unit, "B/s, kB/s, MB/s, GB/s, MiB/s, GiB/s, kbit/s, Mbit/s, Gbit/s")),
    }
}

/// A duration: `30s`, `500ms`, `200us`, `5m`, `2h`, `1h30m`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Err("a duration is missing, such as 30s".to_owned());
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !is_number(letter)).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(is_number).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let seconds = match unit {
            "us" => 0.000_001,
            "ms" => 0.001,
            "s" | "" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(unknown_unit(text, unit, "us, ms, s, m, h, d")),
        };
        let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a duration such as 30s or 1h30m"))?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("`{text}` is too long"))?;
        total = total.checked_add(part).ok_or_else(|| format!("`{text}` is too long"))?;
        rest = after;
    }
    Ok(total)
}

/// A part of a whole: `5%` or `0.05`.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let share = match number.parse::<f64>() {
        Ok(number) if number.is_finite() => number / scale,
        _ => return Err(format!("`{text}` is not a share such as 5% or 0.05")),
    };
    match share {
        0.0..=1.0 => Ok(share),
        _ if scale == 1.0 && (0.0..=100.0).contains(&share) => {
            Err(format!("`{text}` is more than all; write {text}% for percent"))
        }
        _ => Err(format!("`{text}` is not between 0% and 100%")),
    }
}

/// Bytes for people: `12.3 MiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// Bytes per second for people: `23.9 MB/s`.
pub(crate) fn show_rate(bytes_per_s: f64) -> String {
    const UNITS: [&str; 4] = ["kB/s", "MB/s", "GB/s", "TB/s"];
    let mut amount = bytes_per_s / 1e3;
    let mut unit = 0;
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1e3;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

fn is_number(letter: char) -> bool {
    letter.is_ascii_digit() || letter == '.'
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|letter: char| !is_number(letter)).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| format!("`{text}` does not start with a number"))?;
    Ok((number, unit.trim_start()))
}

fn bytes_in(unit: &str) -> Option<f64> {
    match unit {
        "" | "B" => Some(1.0),
        "KiB" => Some(1024.0),
        "MiB" => Some(1024.0 * 1024.0),
        "GiB" => Some(1024.0 * 1024.0 * 1024.0),
        "TiB" => Some(1024.0 * 1024.0 * 1024.0 * 1024.0),
        _ => decimal(unit.strip_suffix('B')?),
    }
}

fn decimal(prefix: &str) -> Option<f64> {
    match prefix {
        "" => Some(1.0),
        "k" | "K" => Some(1e3),
        "M" => Some(1e6),
        "G" => Some(1e9),
        "T" => Some(1e12),
        _ => None,
    }
}

fn whole(amount: f64, text: &str) -> Result<u64, String> {
    // 2^53: up to here f64 holds every whole number.
    if amount > 9_007_199_254_740_992.0 {
        return Err(format!("`{text}` is too large"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0..2^53, rounded")]
    Ok(amount.round() as u64)
}

fn unknown_unit(text: &str, unit: &str, known: &str) -> String {
    let advice = match unit.trim_end_matches("/s").trim_end_matches("ps") {
        "k" | "K" | "M" | "G" | "T" => {
            format!("; write {unit}iB (powers of 1024) or {unit}B (powers of 1000)")
        }
        "kb" | "Kb" | "Mb" | "Gb" | "Tb" => "; write `bit` for bits or `B` for bytes".to_owned(),
        _ => String::new(),
    };
    format!("`{text}` has the unit `{unit}`, known are {known}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, bytes) in [
            ("0", 0),
            ("1048577", 1_048_577),
            ("512B", 512),
            ("1KiB", 1024),
            ("256MiB", 256 << 20),
            ("256 MiB", 256 << 20),
            ("1.5GB", 1_500_000_000),
            ("2TiB", 2 << 40),
            ("64kB", 64_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn an_ambiguous_size_is_refused_with_both_spellings() {
        let error = parse_size("256M").unwrap_err();
        assert!(error.contains("MiB") && error.contains("MB"), "{error}");
        for text in ["", "MiB", "-1", "1.2.3MiB", "1e9", "10Mib", "99999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_rate_is_bytes_per_second_and_bits_say_so() {
        for (text, bytes_per_s) in [
            ("0", 0),
            ("25000000", 25_000_000),
            ("200Mbit/s", 25_000_000),
            ("200Mbit", 25_000_000),
            ("1Gbit/s", 125_000_000),
            ("10MB/s", 10_000_000),
            ("10MiB/s", 10 << 20),
            ("800kbit/s", 100_000),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes_per_s), "{text}");
        }
        // Mb is bits to some and bytes to others.
        for text in ["200Mb/s", "200Mbps", "fast", "/s", "200M"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_add_up() {
        for (text, millis) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "3 weeks", "1y", "1..2s", "99999999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_percent_or_fractions() {
        for (text, share) in [("0", 0.0), ("5%", 0.05), ("0.05", 0.05), ("100%", 1.0), ("1", 1.0), ("2.5 %", 0.025)] {
            assert_eq!(parse_share(text), Ok(share), "{text}");
        }
        assert!(parse_share("5").unwrap_err().contains("5%"));
        for text in ["", "%", "-1%", "101%", "200", "many", "NaN", "inf%"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_with_one_digit() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(256 << 20), "256.0 MiB");
        assert_eq!(show_size(1000 << 20), "1.0 GiB");
        assert_eq!(show_rate(23.9e6), "23.9 MB/s");
        assert_eq!(show_rate(1.0e9), "1.0 GB/s");
    }
}
