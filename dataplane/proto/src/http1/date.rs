//! HTTP dates.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 of an HTTP date in any of its three forms (RFC 9110, section 5.6.7); `None` for other text and
/// for years outside 1970..=9999.
#[must_use]
pub fn parse_date(text: &str) -> Option<u64> {
    let fields: Vec<&str> = text.split([' ', ',', '-']).filter(|field| !field.is_empty()).take(7).collect();
    let (day, month, year, time) = match fields[..] {
        // `Sun, 06 Nov 1994 08:49:37 GMT` and `Sunday, 06-Nov-94 08:49:37 GMT`
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        // `Sun Nov  6 08:49:37 1994`
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let month_index = MONTHS.iter().position(|name| *name == month)? as u64;
    let year = match (year.len(), number(year)?) {
        (2, year @ 70..) => 1900 + year,
        (2, year) => 2000 + year,
        (4, year @ 1970..) => year,
        _ => return None,
    };
    let day = number(day).filter(|day| (1..=days_in(month_index, year)).contains(day))?;
    let mut clock = time.split(':').map(number);
    let (Some(hour), Some(minute), Some(second), None) = (clock.next()?, clock.next()?, clock.next()?, clock.next())
    else {
        return None;
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let months_before = (0..month_index).map(|month| days_in(month, year)).sum::<u64>();
    let days = days_before_year(year) - days_before_year(1970) + months_before + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The HTTP date of `unix_s` seconds since 1970, in the form that servers send; of the last second of 9999 at most.
#[must_use]
pub fn http_date(unix_s: u64) -> String {
    let unix_s = unix_s.min(SECONDS_END - 1);
    let (days, second) = (unix_s / SECONDS_PER_DAY, unix_s % SECONDS_PER_DAY);
    // 400 years have 146,097 days; where leap days come late the quotient is one year too early, so one more is added.
    let mut year = 1971 + days * 400 / 146_097;
    while days_before_year(year) - days_before_year(1970) > days {
        year -= 1;
    }
    let mut day = days - (days_before_year(year) - days_before_year(1970));
    let mut month_index = 0;
    while day >= days_in(month_index, year) {
        day -= days_in(month_index, year);
        month_index += 1;
    }
    let name = |names: &[&'static str], index: u64| names[usize::try_from(index).unwrap_or(0)];
    let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month_index));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT", day + 1)
}

/// Of UTC, which has no other days here: leap seconds are not counted since 1970.
const SECONDS_PER_DAY: u64 = 86_400;
/// The first second of the year 10000.
const SECONDS_END: u64 = 253_402_300_800;

/// One to four digits.
fn number(text: &str) -> Option<u64> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in(month_index: u64, year: u64) -> u64 {
    match month_index {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

const fn days_before_year(year: u64) -> u64 {
    let years = year - 1;
    years * 365 + years / 4 - years / 100 + years / 400
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_forms_are_one_date() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_date("Tue, 29 Feb 2028 23:59:60 GMT"), Some(1_835_481_600));
        assert_eq!(parse_date("Fri, 31 Dec 9999 23:59:59 GMT"), Some(253_402_300_799));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "0",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 29 Feb 2027 00:00:00 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Sun, 06 Nov +994 08:49:37 GMT",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    #[test]
    fn date_is_written_as_servers_write_it() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(1_835_481_599), "Tue, 29 Feb 2028 23:59:59 GMT");
        assert_eq!(http_date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn first_and_last_second_of_every_year_are_written() {
        for year in 1970..10_000 {
            let start = (days_before_year(year) - days_before_year(1970)) * SECONDS_PER_DAY;
            let end = (days_before_year(year + 1) - days_before_year(1970)) * SECONDS_PER_DAY - 1;
            assert!(http_date(start).ends_with(&format!(" 01 Jan {year} 00:00:00 GMT")), "{}", http_date(start));
            assert!(http_date(end).ends_with(&format!(" 31 Dec {year} 23:59:59 GMT")), "{}", http_date(end));
        }
    }

    proptest! {
        #[test]
        fn date_that_is_written_is_read_back(unix_s in 0..SECONDS_END) {
            prop_assert_eq!(parse_date(&http_date(unix_s)), Some(unix_s));
        }

        #[test]
        fn any_text_is_taken_without_panic(text in "\\PC{0,40}|[A-Z][a-z]{2},? [0-9]{1,9} [A-Z][a-z]{2} [0-9]{1,9} [0-9:]{0,12} GMT") {
            let _ = parse_date(&text);
        }
    }
}
