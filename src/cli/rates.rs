//! `tributary rates`: rates of exchange from a file into the log.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Cursor, Read},
    path::PathBuf,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    csv::{ReaderBuilder, reader::Format},
    datatypes::{DataType, Field, Schema},
};
use chrono::NaiveDate;
use clap::Args;
use miette::{Context, IntoDiagnostic};
use num_traits::Signed;

use super::{Outcome, Place, ingest, rim};
use crate::{
    ledger::fx::{RATE_PLACES, day_number},
    log,
    money::{Currency, parse_decimal},
    stripe::{
        admission::AdmissionCounts,
        own::{FX_RATES, Wrapping, file::FileError, rates_object},
        types::FxDay,
    },
    time::{DAY_MICROS, EventTime},
};

/// Days whose records are appended at once.
const DAYS_A_BATCH: usize = 4_000;

/// The source of the European Central Bank's files, and the base of its rates.
const ECB: (&str, &str) = ("ecb", "eur");

#[derive(Args)]
pub(super) struct Arguments {
    /// CSV: the ECB's layout (Date,USD,JPY,…), or day,currency,rate and maybe base; `-` is standard input
    file: PathBuf,
    /// Who published the rates; `ecb` for the ECB's layout if not given
    #[arg(long)]
    source: Option<String>,
    /// The currency one unit of which the rates are for; `eur` for the ECB's layout if not given
    #[arg(long)]
    base: Option<Currency>,
    /// Load this day and later ones only
    #[arg(long)]
    since: Option<NaiveDate>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let text = read(&arguments.file)?;
    let Arguments { source, base, since, .. } = &arguments;
    let days = parse(&text, source.as_deref(), *base)
        .map_err(rim::report)
        .wrap_err_with(|| format!("{} holds no rates", arguments.file.display()))?;
    let days: Vec<FxDay> = days.into_iter().filter(|day| since.is_none_or(|since| day.day >= since)).collect();
    let config = arguments.place.config()?;
    let admission = rim::admission(&config)?;
    let log = log::open(&config.log(&arguments.place.data_dir).map_err(rim::report)?).await.map_err(rim::report)?;
    let mut counts = AdmissionCounts::default();
    for days in days.chunks(DAYS_A_BATCH) {
        let bodies = days.iter().map(|day| {
            let as_of = EventTime::from_micros(i64::from(day_number(day.day)) * DAY_MICROS);
            let wrapping = Wrapping { kind: FX_RATES, as_of, account: None, livemode: true };
            wrapping.wrap(rates_object(day).as_bytes()).map_err(rim::report)
        });
        let bodies = bodies.collect::<Result<Vec<_>, _>>()?;
        let records = tokio::task::block_in_place(|| ingest::admit(&admission, &bodies, &mut counts))?;
        log.append(records).await.map_err(rim::report)?;
    }
    let rates: usize = days.iter().map(|day| day.rates.len()).sum();
    match (days.first(), days.last()) {
        (Some(first), Some(last)) => {
            eprintln!("{rates} rates of {} days appended, {} to {}", days.len(), first.day, last.day);
        }
        _ => eprintln!("no rates: the file has none that late"),
    }
    Ok(Outcome::Done)
}

fn read(file: &PathBuf) -> miette::Result<Vec<u8>> {
    let mut text = Vec::new();
    if file.as_os_str() == "-" {
        io::stdin().read_to_end(&mut text).into_diagnostic()?;
        return Ok(text);
    }
    fs::read(file).into_diagnostic().wrap_err_with(|| format!("cannot read {}", file.display()))
}

/// The rates of a file by day, in either layout.
fn parse(text: &[u8], source: Option<&str>, base: Option<Currency>) -> Result<Vec<FxDay>, FileError> {
    let bad = |error: arrow::error::ArrowError| FileError(error.to_string());
    let format = Format::default().with_header(true);
    let (header, _) = format.infer_schema(Cursor::new(text), Some(0)).map_err(bad)?;
    let names: Vec<String> = header.fields().iter().map(|field| field.name().trim().to_lowercase()).collect();
    // Every cell is read as it is written: a number must not become a float.
    let fields: Vec<Field> =
        (0..names.len()).map(|column| Field::new(column.to_string(), DataType::Utf8, true)).collect();
    let reader = ReaderBuilder::new(Schema::new(fields).into()).with_header(true).build(Cursor::new(text));
    let batches = reader.and_then(Iterator::collect::<Result<Vec<RecordBatch>, _>>).map_err(bad)?;
    let mut rows = Rows { days: BTreeMap::new(), source: String::new() };
    let column = |name: &str| names.iter().position(|other| other == name);
    if names.first().is_some_and(|name| name == "date") {
        let eur = || ECB.1.parse().map_err(|error: crate::money::Error| FileError(error.to_string()));
        rows.source = source.unwrap_or(ECB.0).to_owned();
        let base = base.map_or_else(eur, Ok)?;
        let currencies = names.iter().enumerate().skip(1).filter(|(_, name)| !name.is_empty());
        let currencies: Vec<(usize, Currency)> = currencies
            .map(|(at, name)| {
                Ok((at, name.parse().map_err(|error: crate::money::Error| FileError(error.to_string()))?))
            })
            .collect::<Result<_, FileError>>()?;
        each(&batches, |line, cell| {
            let Some(day) = cell(0) else { return Ok(()) };
            for (at, currency) in &currencies {
                if let Some(rate) = cell(*at).filter(|rate| *rate != "N/A") {
                    rows.put(line, day, *currency, rate, base)?;
                }
            }
            Ok(())
        })?;
    } else if let (Some(day), Some(currency), Some(rate)) = (column("day"), column("currency"), column("rate")) {
        rows.source = source.unwrap_or("file").to_owned();
        let base_column = column("base");
        each(&batches, |line, cell| {
            let at = |message: &str| FileError(format!("line {line}: {message}"));
            let (Some(day), Some(currency), Some(rate)) = (cell(day), cell(currency), cell(rate)) else {
                return Err(at("a row has a day, a currency and a rate"));
            };
            let code = |text: &str| text.parse::<Currency>().map_err(|error| at(&error.to_string()));
            let base = match (base_column.and_then(cell), base) {
                (Some(base), _) => code(base)?,
                (None, Some(base)) => base,
                (None, None) => return Err(at("say what one unit of which currency the rates are for: --base eur")),
            };
            rows.put(line, day, code(currency)?, rate, base)
        })?;
    } else {
        return Err(FileError(
            "its first line is neither the ECB's (Date,USD,JPY,…) nor day,currency,rate or day,currency,rate,base"
                .to_owned(),
        ));
    }
    Ok(rows.days.into_values().collect())
}

/// Calls `row` with every line's number and its cells, trimmed; empty ones are absent.
fn each<'a>(
    batches: &'a [RecordBatch],
    mut row: impl FnMut(usize, &dyn Fn(usize) -> Option<&'a str>) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let mut line = 1;
    for batch in batches {
        for at in 0..batch.num_rows() {
            line += 1;
            let cell = |column: usize| {
                let texts = batch.column(column).as_string::<i32>();
                texts.is_valid(at).then(|| texts.value(at).trim()).filter(|text| !text.is_empty())
            };
            row(line, &cell)?;
        }
    }
    Ok(())
}

struct Rows {
    days: BTreeMap<NaiveDate, FxDay>,
    source: String,
}

impl Rows {
    fn put(&mut self, line: usize, day: &str, currency: Currency, rate: &str, base: Currency) -> Result<(), FileError> {
        let at = |message: String| FileError(format!("line {line}: {message}"));
        let formats = ["%Y-%m-%d", "%d %B %Y"];
        let day = formats
            .iter()
            .find_map(|format| NaiveDate::parse_from_str(day, format).ok())
            .ok_or_else(|| at(format!("`{day}` is no day; write 2026-01-02")))?;
        let exact = parse_decimal(rate).map_err(|error| at(error.to_string()))?;
        let places = rate.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        if !exact.is_positive() || places > RATE_PLACES as usize {
            return Err(at(format!("{rate} is no rate: it is above 0, with {RATE_PLACES} decimal places at most")));
        }
        if currency == base {
            return Ok(());
        }
        let held = self.days.entry(day).or_insert_with(|| FxDay {
            day,
            base,
            source: self.source.clone(),
            rates: BTreeMap::new(),
        });
        if held.base != base {
            return Err(at(format!("rates of one day have one base, but there are {} and {base}", held.base)));
        }
        if held.rates.insert(currency, exact).is_some() {
            return Err(at(format!("a second rate of {currency} on {day}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::exact_text;

    fn parsed(text: &str, source: Option<&str>, base: Option<&str>) -> Result<Vec<String>, String> {
        let base = base.map(|base| base.parse().unwrap());
        let days = parse(text.as_bytes(), source, base).map_err(|error| error.to_string())?;
        Ok(days
            .iter()
            .map(|day| {
                let rates: Vec<_> = day.rates.iter().map(|(to, rate)| format!("{to} {}", exact_text(rate))).collect();
                format!("{} {} 1 {} = {}", day.source, day.day, day.base, rates.join(", "))
            })
            .collect())
    }

    #[test]
    fn the_ecbs_files_are_read_with_their_gaps() {
        let history = "Date,USD,JPY,CYP,\n2026-03-06,1.0837,160.5,N/A,\n2026-03-05,1.08,N/A,0.58,\n";
        assert_eq!(
            parsed(history, None, None).unwrap(),
            ["ecb 2026-03-05 1 eur = cyp 0.58, usd 1.08", "ecb 2026-03-06 1 eur = jpy 160.5, usd 1.0837"]
        );
        let daily = "Date, USD, JPY, \n02 January 2026, 1.0837, 160.50, \n";
        assert_eq!(parsed(daily, None, None).unwrap(), ["ecb 2026-01-02 1 eur = jpy 160.5, usd 1.0837"]);
    }

    #[test]
    fn a_plain_file_names_its_base_in_a_column_or_by_an_option() {
        let plain = "day,currency,rate\n2026-01-02,EUR,0.9\n2026-01-02,usd,1\n2026-01-03,brl,5.123456789012\n";
        assert_eq!(
            parsed(plain, Some("bank"), Some("usd")).unwrap(),
            ["bank 2026-01-02 1 usd = eur 0.9", "bank 2026-01-03 1 usd = brl 5.123456789012"]
        );
        let with_base = "currency,base,rate,day\neur,usd,0.9,2026-01-02\n";
        assert_eq!(parsed(with_base, None, None).unwrap(), ["file 2026-01-02 1 usd = eur 0.9"]);
        assert!(parsed(plain, None, None).unwrap_err().contains("--base"));
    }

    #[test]
    fn a_mistake_is_refused_with_its_line() {
        for (text, word) in [
            ("a,b\n1,2\n", "first line"),
            ("day,currency,rate\n2026-01-02,eur,0\n", "line 2"),
            ("day,currency,rate\n2026-01-02,eur,1\n2026-01-02,eur,2\n", "line 3: a second rate"),
            ("day,currency,rate\n2026-01-02,eur,1.1234567890123\n", "12 decimal places"),
            ("day,currency,rate\n02.01.2026,eur,1\n", "02.01.2026"),
            ("day,currency,rate\n2026-01-02,gold,1\n", "gold"),
            ("Date,USD\n2026-01-02,1e3\n", "1e3"),
        ] {
            let refused = parsed(text, None, Some("usd")).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
    }
}
