//! `tributary.toml`, the environment and flags, put together and checked once.
//!
//! Settings come from the file, then `TRIBUTARY_…` variables (`TRIBUTARY_SERVE__LISTEN` is `serve.listen`), then
//! flags. Secrets come from the environment or are named by it; they never stand in the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono_tz::Tz;
use figment::{
    Figment,
    providers::{Env, Format, Toml},
    value::Value,
};
use num_traits::ToPrimitive;
use serde::Deserialize;

use crate::{
    act::{
        rules::{MinAmount, Relation, Rule},
        webhook::{self, SigningSecret},
    },
    ledger::{
        BackdatedStart, DiscountOrder, LogoChurnDenominator, Profile, Rules, ScheduledCancellation, fx,
        recognition::Method,
    },
    log::{self, kafka},
    money::{Currency, Factor, parse_exact},
    storage,
    stripe::{admission::Key, ids::AccountId, signature},
};

/// The file's name in the working directory and in the data directory.
pub const FILE: &str = "tributary.toml";
/// The variable with the secret of Stripe's webhook endpoint; several, separated by commas, while it is rolled.
pub const WEBHOOK_SECRET: &str = "TRIBUTARY_WEBHOOK_SECRET";
/// The variable with the password of the PostgreSQL port.
pub const POSTGRES_PASSWORD: &str = "TRIBUTARY_POSTGRES_PASSWORD";

/// A mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or a variable does not parse.
    #[error("the configuration is not right: {0}")]
    Parse(Box<figment::Error>),
    /// A value is not possible.
    #[error("the setting {setting} is not right: {problem}")]
    Value {
        /// Which.
        setting: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A secret is missing.
    #[error("the environment variable {variable} is not set; {purpose}")]
    Secret {
        /// Which.
        variable: String,
        /// What it is for.
        purpose: String,
    },
}

/// All settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The merchant.
    pub merchant: Merchant,
    /// The event log.
    pub log: Log,
    /// The engine.
    pub engine: Engine,
    /// Where tables, checkpoints and the outbox are.
    pub storage: Storage,
    /// The rules of recurring revenue.
    pub revenue: Revenue,
    /// Where pipelines are.
    pub pipelines: Pipelines,
    /// Parameters of pipelines: `[parameters.expansion_events] min_amount = "50"`.
    pub parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// The webhook receiver.
    pub gateway: Gateway,
    /// The PostgreSQL port.
    pub serve: Serve,
    /// Receivers of alerts, by name.
    pub webhooks: BTreeMap<String, Webhook>,
    /// Alert rules, by name.
    pub alerts: BTreeMap<String, Alert>,
}

/// `[merchant]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Merchant {
    /// The name under which events without an account are kept: the account's own.
    pub account: String,
    /// The IANA zone in which the merchant's days begin and end.
    pub zone: String,
}

impl Default for Merchant {
    fn default() -> Self {
        Self { account: "self".to_owned(), zone: "UTC".to_owned() }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `embedded` or `kafka`.
    pub transport: Transport,
    /// Partitions, when the log is created.
    pub partitions: u32,
    /// By what events are keyed: `customer` or `account`.
    pub key: Key,
    /// Kafka: `host:port,…`
    pub brokers: String,
    /// Kafka: the topic.
    pub topic: String,
    /// Kafka: whether a missing topic is created.
    pub create_topic: bool,
    /// Kafka: replicas, when the topic is created; the brokers' own default if not set.
    pub replication: Option<u16>,
    /// Kafka: properties of librdkafka, such as `security.protocol`; a value `env:NAME` is read from the environment.
    pub properties: BTreeMap<String, String>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            transport: Transport::Embedded,
            partitions: 4,
            key: Key::Customer,
            brokers: String::new(),
            topic: "stripe.events".to_owned(),
            create_topic: true,
            replication: None,
            properties: BTreeMap::new(),
        }
    }
}

/// How events get to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A file in the data directory.
    Embedded,
    /// Apache Kafka.
    Kafka,
}

/// `[engine]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Seconds between two checkpoints while there is no backlog.
    pub checkpoint_seconds: u64,
    /// Seconds the watermark waits for late events before a day is final.
    pub allowed_lateness_seconds: u64,
    /// Threads that work side by side: as many as there are cores if not set.
    pub threads: Option<NonZero<usize>>,
    /// MiB of memory at which reading waits; three quarters of the machine's, or the container's, if not set.
    pub memory_mib: Option<NonZero<u32>>,
    /// Ids of events that are not read: they become rows of `rejected_events`. Of what has been read already
    /// `tributary rebuild` takes them out.
    pub skip: BTreeSet<String>,
}

impl Default for Engine {
    fn default() -> Self {
        // Stripe retries a webhook for three days.
        Self {
            checkpoint_seconds: 2,
            allowed_lateness_seconds: 3 * 86_400,
            threads: None,
            memory_mib: None,
            skip: BTreeSet::new(),
        }
    }
}

/// `[storage]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// `s3://bucket/prefix`; the data directory if not set.
    pub url: Option<String>,
    /// The server's address, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// The bucket's region, if `AWS_REGION` does not say it.
    pub region: Option<String>,
    /// Whether the bucket is named in the path, and not in the host.
    pub path_style: bool,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: bool,
}

impl Default for Storage {
    fn default() -> Self {
        Self { url: None, endpoint: None, region: None, path_style: true, allow_http: false }
    }
}

/// `[revenue]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revenue {
    /// The profile of rules: `stripe`, `chartmogul`, `profitwell` or `custom`.
    pub profile: Profile,
    /// The settings of `custom`.
    pub custom: Option<CustomProfile>,
    /// How evenly a line of an invoice is recognised over its period: by `millisecond`, `day` or `month`.
    pub recognition: Method,
    /// The currency of `mrr_daily_reporting`; there is no such view when this is not set.
    pub reporting_currency: Option<Currency>,
    /// How many days old a rate of exchange may be.
    pub fx_max_age_days: u32,
}

impl Default for Revenue {
    fn default() -> Self {
        Self {
            profile: Profile::Stripe,
            custom: None,
            recognition: Method::default(),
            reporting_currency: None,
            fx_max_age_days: fx::DEFAULT_MAX_AGE_DAYS,
        }
    }
}

/// `[revenue.custom]`: a named profile with other settings. `docs/how-we-count.md` says what each of them means.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CustomProfile {
    /// The profile whose settings hold where none is given: `stripe` if not set.
    pub base: Option<Profile>,
    /// When a cancellation for the period's end leaves: `leaves_at_request` or `leaves_at_end`.
    pub scheduled_cancellation: Option<ScheduledCancellation>,
    /// The coupons that are taken off: a list of `forever`, `repeating`, `once`.
    pub discounts: Option<Vec<CouponClass>>,
    /// The order of discounts of one level: `list`, `percent_first` or `amount_first`.
    pub discount_order: Option<DiscountOrder>,
    /// Whether a subscription whose collection is paused counts.
    pub count_paused_collection: Option<bool>,
    /// Whether a customer who pays nothing any more, but still has a subscription, stays.
    pub free_customers_stay: Option<bool>,
    /// From when a backdated subscription counts: `event_time` or `start_date`.
    pub backdated_start: Option<BackdatedStart>,
    /// Weeks in a month, such as `"52/12"`, `"365/84"`, `"4"` or `"4.345"`.
    pub weeks_per_month: Option<String>,
    /// Days in a month, such as `"365/12"` or `"30.437"`.
    pub days_per_month: Option<String>,
    /// Seconds within which changes of one customer make one movement; at least 1.
    pub netting_seconds: Option<u32>,
    /// What logo churn is divided by: `opening` or `opening_and_new`.
    pub logo_churn_denominator: Option<LogoChurnDenominator>,
    /// Whether a customer who leaves by a pause counts in logo churn.
    pub pause_is_logo_churn: Option<bool>,
}

/// A class of coupons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CouponClass {
    /// For ever.
    Forever,
    /// For some months.
    Repeating,
    /// For one invoice.
    Once,
}

impl CustomProfile {
    fn rules(&self) -> Result<Rules, Error> {
        let base = Rules::of(match self.base {
            Some(Profile::Custom) => {
                let problem = "must be stripe, chartmogul or profitwell".to_owned();
                return Err(value("revenue.custom.base", problem));
            }
            base => base.unwrap_or_default(),
        });
        let subtracts = |class, of_base| self.discounts.as_ref().map_or(of_base, |classes| classes.contains(&class));
        let factor = |name: &str, text: &Option<String>, of_base| match text {
            Some(text) => month_factor(text).ok_or_else(|| {
                let problem = format!("`{text}` is no number between 1 and 100, such as 52/12 or 30.437");
                value(&format!("revenue.custom.{name}"), problem)
            }),
            None => Ok(of_base),
        };
        if self.netting_seconds == Some(0) {
            return Err(value("revenue.custom.netting_seconds", "must be at least 1".to_owned()));
        }
        Ok(Rules {
            profile: Profile::Custom,
            scheduled_cancellation: self.scheduled_cancellation.unwrap_or(base.scheduled_cancellation),
            subtract_forever: subtracts(CouponClass::Forever, base.subtract_forever),
            subtract_repeating: subtracts(CouponClass::Repeating, base.subtract_repeating),
            subtract_once: subtracts(CouponClass::Once, base.subtract_once),
            discount_order: self.discount_order.unwrap_or(base.discount_order),
            count_paused_collection: self.count_paused_collection.unwrap_or(base.count_paused_collection),
            free_customers_stay: self.free_customers_stay.unwrap_or(base.free_customers_stay),
            backdated_start: self.backdated_start.unwrap_or(base.backdated_start),
            weeks_per_month: factor("weeks_per_month", &self.weeks_per_month, base.weeks_per_month)?,
            days_per_month: factor("days_per_month", &self.days_per_month, base.days_per_month)?,
            netting_seconds: self.netting_seconds.unwrap_or(base.netting_seconds),
            logo_churn_denominator: self.logo_churn_denominator.unwrap_or(base.logo_churn_denominator),
            pause_is_logo_churn: self.pause_is_logo_churn.unwrap_or(base.pause_is_logo_churn),
            recognition: base.recognition,
        })
    }
}

/// A number of weeks or days, exact: a decimal or a fraction with at most six digits above and below the line, so that
/// no product with an amount overflows.
fn month_factor(text: &str) -> Option<Factor> {
    let exact = parse_exact(text.trim()).ok()?;
    let factor = Factor::new(exact.numer().to_i64()?, exact.denom().to_i64()?);
    let fits = *factor.numer() < 1_000_000 && *factor.denom() < 1_000_000;
    (fits && factor >= Factor::from_integer(1) && factor <= Factor::from_integer(100)).then_some(factor)
}

/// `[pipelines]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pipelines {
    /// The directory with `*.sql`; `pipelines` in the working directory if there is one, else those that come with
    /// the program.
    pub dir: Option<PathBuf>,
}

/// `[gateway]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Where `run` listens for webhooks; it does not when this is not set.
    pub listen: Option<SocketAddr>,
}

/// `[serve]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Serve {
    /// Where PostgreSQL listens: a loopback address.
    pub listen: SocketAddr,
    /// The user's name.
    pub user: String,
}

impl Default for Serve {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 5433)), user: "tributary".to_owned() }
    }
}

/// `[webhooks.<name>]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to post.
    pub url: String,
    /// The variable with the signing secret (`whsec_…`); several, separated by commas, while it is rolled.
    pub secret_env: String,
    /// Whether plain http and private addresses are meant.
    #[serde(default)]
    pub allow_private: bool,
}

/// `[alerts.<name>]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// From which growth of MRR on: `"100"`, or by currency `{ usd = "100", jpy = "15000" }`.
    pub min_amount: MinAmount,
    /// Names under `[webhooks]`.
    pub webhooks: Vec<String>,
    /// Hours after which an expansion is too old to alert.
    #[serde(default = "default_max_age_hours")]
    pub max_age_hours: u64,
    /// Whether Stripe's test mode alerts too.
    #[serde(default)]
    pub test_mode: bool,
    /// Whether growth that nobody earned alerts too: a discount that ran out, another currency.
    #[serde(default)]
    pub unearned: bool,
}

/// Stripe retries a webhook for three days: what comes later is a backfill.
fn default_max_age_hours() -> u64 {
    72
}

/// Parameters of one pipeline: a TOML file of `name = value`. Write decimals as texts, so that they stay exact.
///
/// # Errors
/// [`Error::Parse`], and [`Error::Value`] for a value that is no text, whole number or boolean.
pub fn parameters(file: &Path) -> Result<BTreeMap<String, String>, Error> {
    let figment = Figment::from(Toml::file_exact(file));
    let read: BTreeMap<String, Value> = figment.extract().map_err(|error| Error::Parse(Box::new(error)))?;
    let text = |(name, found): (String, Value)| {
        let text = match &found {
            Value::String(_, text) => Some(text.clone()),
            Value::Bool(_, truth) => Some(truth.to_string()),
            Value::Num(_, number) => number.to_i128().map(|number| number.to_string()),
            _ => None,
        };
        let problem = || "must be a text, a whole number, true or false; write decimals as texts".to_owned();
        text.map(|text| (name.clone(), text)).ok_or_else(|| value(&name, problem()))
    };
    read.into_iter().map(text).collect()
}

impl Config {
    /// Reads `file`, or `tributary.toml` in the working directory or else in `data_dir`, and the environment.
    ///
    /// # Errors
    /// [`Error::Parse`]; a `file` that was named must exist.
    pub fn load(file: Option<&Path>, data_dir: &Path) -> Result<Self, Error> {
        let toml = match file {
            Some(path) => Toml::file_exact(path),
            None if Path::new(FILE).exists() => Toml::file_exact(FILE),
            None => Toml::file_exact(data_dir.join(FILE)),
        };
        let figment = match file {
            None if !Path::new(FILE).exists() && !data_dir.join(FILE).exists() => Figment::new(),
            _ => Figment::from(toml),
        };
        let sections = ["merchant", "log", "engine", "storage", "revenue", "pipelines", "gateway", "serve"];
        let variables = Env::prefixed("TRIBUTARY_")
            .filter(move |key| sections.iter().any(|section| key.starts_with(&format!("{section}__"))))
            .split("__");
        figment.merge(variables).extract().map_err(|error| Error::Parse(Box::new(error)))
    }

    /// The merchant's zone.
    ///
    /// # Errors
    /// [`Error::Value`] when it is no IANA zone.
    pub fn zone(&self) -> Result<Tz, Error> {
        let problem = || format!("`{}` is not an IANA time zone, such as Europe/Berlin", self.merchant.zone);
        self.merchant.zone.parse().map_err(|_| value("merchant.zone", problem()))
    }

    /// How long the watermark waits for late events.
    #[must_use]
    pub fn allowed_lateness(&self) -> Duration {
        Duration::from_secs(self.engine.allowed_lateness_seconds)
    }

    /// The merchant's account.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.merchant.account.as_str().into()
    }

    /// The rules of recurring revenue.
    ///
    /// # Errors
    /// [`Error::Value`] when the profile is `custom` and there is no `[revenue.custom]`, or it is not right.
    pub fn rules(&self) -> Result<Rules, Error> {
        self.rules_of(self.revenue.profile)
    }

    /// The rules of a profile, which may be another than the one in force.
    ///
    /// # Errors
    /// As [`Self::rules`].
    pub fn rules_of(&self, profile: Profile) -> Result<Rules, Error> {
        let rules = match (profile, &self.revenue.custom) {
            (Profile::Custom, Some(custom)) => custom.rules()?,
            (Profile::Custom, None) => {
                let problem = "is custom, but there is no section [revenue.custom]".to_owned();
                return Err(value("revenue.profile", problem));
            }
            (named, _) => Rules::of(named),
        };
        Ok(Rules { recognition: self.revenue.recognition, ..rules })
    }

    /// The settings that parameters of pipelines can refer to.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::from([("merchant.zone".to_owned(), self.merchant.zone.clone())]);
        // Rules that cannot be made are an error elsewhere.
        if let Ok(rules) = self.rules() {
            let denominator = rules.logo_churn_denominator.as_str().to_owned();
            settings.insert("revenue.logo_churn_denominator".to_owned(), denominator);
            settings.insert("revenue.pause_is_logo_churn".to_owned(), rules.pause_is_logo_churn.to_string());
        }
        settings
    }

    /// The bucket of tables, checkpoints and outbox, if they are not in the data directory.
    #[must_use]
    pub fn storage(&self) -> Option<storage::Options> {
        let Storage { url, endpoint, region, path_style, allow_http } = self.storage.clone();
        Some(storage::Options { url: url?, endpoint, region, path_style, allow_http })
    }

    /// The event log.
    ///
    /// # Errors
    /// [`Error::Value`] and [`Error::Secret`].
    pub fn log(&self, data_dir: &Path) -> Result<log::Options, Error> {
        if !(1..=1024).contains(&self.log.partitions) {
            return Err(value("log.partitions", "must be between 1 and 1024".to_owned()));
        }
        Ok(match self.log.transport {
            Transport::Embedded => {
                log::Options::Embedded { dir: data_dir.join("log"), partitions: self.log.partitions }
            }
            Transport::Kafka => {
                if self.log.brokers.is_empty() {
                    return Err(value("log.brokers", "must name a broker, such as kafka:9092".to_owned()));
                }
                let properties = self.log.properties.iter().map(|(name, text)| {
                    let text = match text.strip_prefix("env:") {
                        Some(variable) => secret(variable, &format!("log.properties.{name} is read from it"))?,
                        None => text.clone(),
                    };
                    Ok((name.clone(), text))
                });
                log::Options::Kafka(kafka::Options {
                    brokers: self.log.brokers.clone(),
                    topic: self.log.topic.clone(),
                    partitions: self.log.partitions,
                    replication: self.log.replication,
                    create: self.log.create_topic,
                    properties: properties.collect::<Result<_, Error>>()?,
                })
            }
        })
    }

    /// The secrets that Stripe's signatures are verified with.
    ///
    /// # Errors
    /// [`Error::Secret`] when there is none.
    pub fn webhook_secrets(&self) -> Result<Vec<signature::Secret>, Error> {
        let text = secret(WEBHOOK_SECRET, "set it to the signing secret (whsec_…) of your endpoint in Stripe")?;
        Ok(text.split(',').map(|secret| signature::Secret::new(secret.trim())).collect())
    }

    /// Alert rules and the webhooks they tell.
    ///
    /// # Errors
    /// [`Error::Value`] and [`Error::Secret`].
    pub fn alerts(&self) -> Result<(Vec<Rule>, Vec<webhook::Options>), Error> {
        let rules = self.alerts.iter().map(|(name, alert)| {
            if let Some(unknown) = alert.webhooks.iter().find(|webhook| !self.webhooks.contains_key(*webhook)) {
                let problem = format!("there is no [webhooks.{unknown}]");
                return Err(value(&format!("alerts.{name}.webhooks"), problem));
            }
            Ok(Rule {
                name: name.clone(),
                relation: Relation::ExpansionEvents,
                min_amount: alert.min_amount.clone(),
                webhooks: alert.webhooks.clone(),
                max_age: Duration::from_secs(alert.max_age_hours.saturating_mul(3600)),
                test_mode: alert.test_mode,
                unearned: alert.unearned,
            })
        });
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        let used: BTreeSet<&String> = rules.iter().flat_map(|rule| &rule.webhooks).collect();
        let webhooks = self.webhooks.iter().filter(|(name, _)| used.contains(name)).map(|(name, webhook)| {
            let text = secret(&webhook.secret_env, &format!("[webhooks.{name}] signs with it"))?;
            let secrets = text.split(',').map(|text| {
                SigningSecret::parse(text.trim()).map_err(|problem| value(&webhook.secret_env, problem.to_owned()))
            });
            Ok(webhook::Options {
                name: name.clone(),
                url: webhook.url.clone(),
                secrets: secrets.collect::<Result<_, Error>>()?,
                allow_private: webhook.allow_private,
            })
        });
        let webhooks = webhooks.collect::<Result<Vec<_>, _>>()?;
        Ok((rules, webhooks))
    }
}

fn value(setting: &str, problem: String) -> Error {
    Error::Value { setting: setting.to_owned(), problem }
}

fn secret(variable: &str, purpose: &str) -> Result<String, Error> {
    match env::var(variable) {
        Ok(text) if !text.trim().is_empty() => Ok(text),
        _ => Err(Error::Secret { variable: variable.to_owned(), purpose: purpose.to_owned() }),
    }
}
