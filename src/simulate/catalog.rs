//! What the account sells: products, prices in four currencies, coupons; with their JSON bodies written once.
//!
//! Tiers stand in the body of `price.created` alone, as with real webhooks: a subscription's body has the price
//! without them.

use super::{
    ApiVersion,
    amount::{Interval, PARTS, Rate, Tier, WHOLE},
    ids::{Id, Ids},
    json::{Text, put},
};

/// The currencies: code, exponent, share of customers in percent, and price level against US cents.
pub(super) const CURRENCIES: [Currency; 4] = [
    Currency { code: "usd", exponent: 2, share: 55, level: (1, 1), coin: "$", amount_off: 500 },
    Currency { code: "eur", exponent: 2, share: 25, level: (92, 100), coin: "€", amount_off: 500 },
    Currency { code: "jpy", exponent: 0, share: 12, level: (3, 2), coin: "¥", amount_off: 700 },
    Currency { code: "gbp", exponent: 2, share: 8, level: (80, 100), coin: "£", amount_off: 400 },
];

pub(super) struct Currency {
    pub(super) code: &'static str,
    pub(super) exponent: u32,
    pub(super) share: u32,
    level: (i128, i128),
    coin: &'static str,
    amount_off: i64,
}

/// A plan of the catalogue: one price in each currency. The order is that of the table in [`Catalog::new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    Free,
    StarterMonth,
    StarterYear,
    ProMonth,
    ProQuarter,
    ProYear,
    TeamMonth,
    TeamYear,
    ScaleMonth,
    VolumeMonth,
    SyncWeek,
    SyncFortnight,
    PacksMonth,
    CreditsMonth,
    SupportMonth,
    SupportYear,
    UsageMonth,
}

/// A number of plans, for tables.
pub(super) const PLANS: usize = 17;

pub(super) struct Price {
    pub(super) id: Id,
    pub(super) product: usize,
    pub(super) code: &'static str,
    pub(super) interval: Interval,
    pub(super) count: u32,
    pub(super) rate: Rate,
    /// `unit_amount_decimal`'s text, for invoice lines; tiered prices have none.
    pub(super) decimal: Option<String>,
    /// Line description after the quantity.
    pub(super) label: String,
    /// The body in subscriptions, and the old plan beside it.
    pub(super) body: Vec<u8>,
    pub(super) plan: Vec<u8>,
    /// The body of `price.created`, with tiers.
    pub(super) full: Vec<u8>,
}

impl Price {
    pub(super) fn metered(&self) -> bool {
        matches!(self.rate, Rate::Metered(_))
    }
}

/// How long a coupon lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Duration {
    Forever,
    Months(u32),
    Once,
}

/// What a coupon takes off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Off {
    /// Hundredths of a percent.
    Percent(i128),
    /// Minor units of a currency.
    Amount(i64, usize),
}

pub(super) struct Coupon {
    pub(super) off: Off,
    pub(super) duration: Duration,
    pub(super) body: Vec<u8>,
}

pub(super) struct Product {
    pub(super) id: Id,
    pub(super) name: &'static str,
    pub(super) body: Vec<u8>,
}

pub(super) struct Catalog {
    pub(super) products: Vec<Product>,
    prices: Vec<Price>,
    pub(super) coupons: Vec<Coupon>,
    pub(super) tax_rate: Id,
}

impl Catalog {
    pub(super) fn new(version: ApiVersion, created: i64, ids: &mut Ids) -> Self {
        let names = [
            "Free",
            "Starter",
            "Pro",
            "Team",
            "Scale",
            "Volume API",
            "Sync",
            "Packs",
            "Credits",
            "Priority support",
            "Usage",
        ];
        let products = names
            .into_iter()
            .map(|name| {
                let id = ids.short("prod_");
                let mut body = Vec::new();
                put!(&mut body;
                    r#"{"id":"#, id, r#","object":"product","active":true,"attributes":[],"created":"#, created,
                    r#","default_price":null,"description":"#, Text(name), r#","images":[],"livemode":true,"#,
                    r#""marketing_features":[{"name":"Unlimited projects"},{"name":"Email support"}],"#,
                    r#""metadata":{"family":"core","sku":"#, Text(&name.to_lowercase()), r#"},"name":"#, Text(name),
                    r#","package_dimensions":null,"shippable":null,"statement_descriptor":null,"#,
                    r#""tax_code":"txcd_10103001","type":"service","unit_label":"seat","updated":"#, created,
                    r#","url":null}"#,
                );
                Product { id, name, body }
            })
            .collect::<Vec<_>>();
        let cents = |hundredths: i128| hundredths * PARTS / 100;
        let flat = |cents_| Rate::PerUnit(cents(cents_));
        let tier = |up_to, unit, flat| Tier { up_to, unit: cents(unit), flat: cents(flat) };
        use Interval::{Month, Week, Year};
        // Product, code, interval, count, and amounts in hundredths of a US cent.
        let plans: [(usize, &'static str, Interval, u32, Rate); PLANS] = [
            (0, "free", Month, 1, flat(0)),
            (1, "starter_month", Month, 1, flat(190_000)),
            (1, "starter_year", Year, 1, flat(1_900_000)),
            (2, "pro_month", Month, 1, flat(490_000)),
            (2, "pro_quarter", Month, 3, flat(1_390_000)),
            (2, "pro_year", Year, 1, flat(4_900_000)),
            (3, "team_month", Month, 1, flat(120_000)),
            (3, "team_year", Year, 1, flat(1_199_900)),
            (
                4,
                "scale_month",
                Month,
                1,
                Rate::Graduated(vec![
                    tier(Some(10), 0, 990_000),
                    tier(Some(50), 80_000, 0),
                    tier(None, 60_000, 250_000),
                ]),
            ),
            (
                5,
                "volume_month",
                Month,
                1,
                Rate::Volume(vec![
                    tier(Some(100), 4_550, 0),
                    tier(Some(1_000), 3_000, 100_000),
                    tier(None, 1_225, 500_000),
                ]),
            ),
            (6, "sync_week", Week, 1, flat(70_000)),
            (6, "sync_fortnight", Week, 2, flat(130_000)),
            (7, "packs_month", Month, 1, Rate::Package { unit: cents(150_000), size: 100 }),
            (8, "credits_month", Month, 1, flat(75)),
            (9, "support_month", Month, 1, flat(290_000)),
            (9, "support_year", Year, 1, flat(2_900_000)),
            (10, "usage_month", Month, 1, Rate::Metered(cents(40))),
        ];
        let mut prices = Vec::new();
        for (currency, _) in CURRENCIES.iter().enumerate() {
            for (product, code, interval, count, rate) in &plans {
                let rate = in_currency(rate, currency);
                let price = price(
                    version,
                    created,
                    ids.long("price_"),
                    &products[*product],
                    (currency, code, *interval, *count, rate),
                );
                prices.push(Price { product: *product, ..price });
            }
        }
        let mut coupons = vec![
            coupon("LAUNCH20", "20% off", Off::Percent(2_000), Duration::Forever, created),
            coupon("NGO3333", "A third off", Off::Percent(3_333), Duration::Forever, created),
            coupon("PARTNER", "12.5% off", Off::Percent(1_250), Duration::Forever, created),
            coupon("TRYUS25", "25% off for 3 months", Off::Percent(2_500), Duration::Months(3), created),
            coupon("HALFYEAR", "Half for 6 months", Off::Percent(5_000), Duration::Months(6), created),
            coupon("FIRSTHALF", "Half off once", Off::Percent(5_000), Duration::Once, created),
        ];
        for (at, currency) in CURRENCIES.iter().enumerate() {
            let name = format!("{}{} off", currency.coin, currency.amount_off);
            let id = format!("FRIEND{}", currency.code.to_uppercase());
            coupons.push(coupon(&id, &name, Off::Amount(currency.amount_off, at), Duration::Forever, created));
        }
        Self { products, prices, coupons, tax_rate: ids.long("txr_") }
    }

    pub(super) fn price(&self, currency: usize, plan: Plan) -> &Price {
        &self.prices[currency * PLANS + plan as usize]
    }

    pub(super) fn prices(&self) -> &[Price] {
        &self.prices
    }

    /// The forever amount-off coupon of a currency.
    pub(super) fn amount_coupon(&self, currency: usize) -> usize {
        self.coupons.len() - CURRENCIES.len() + currency
    }
}

/// The rate in a currency. What is whole in US cents stays whole; fractions keep their places.
fn in_currency(rate: &Rate, currency: usize) -> Rate {
    let (times, over) = CURRENCIES[currency].level;
    let convert = |amount: i128| {
        let value = amount * times / over;
        let large = amount % PARTS == 0 && amount >= 5_000 * PARTS;
        if large { value / (PARTS * 10) * (PARTS * 10) } else { value }
    };
    let tiers = |tiers: &[Tier]| {
        tiers.iter().map(|tier| Tier { unit: convert(tier.unit), flat: convert(tier.flat), ..*tier }).collect()
    };
    match rate {
        Rate::PerUnit(unit) => Rate::PerUnit(convert(*unit)),
        Rate::Package { unit, size } => Rate::Package { unit: convert(*unit), size: *size },
        Rate::Graduated(of) => Rate::Graduated(tiers(of)),
        Rate::Volume(of) => Rate::Volume(tiers(of)),
        Rate::Metered(unit) => Rate::Metered(convert(*unit)),
    }
}

/// Parts as Stripe writes decimals: no trailing zeros.
fn decimal(parts: i128) -> String {
    let (whole, rest) = (parts / PARTS, parts % PARTS);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = format!("{rest:012}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// An integer amount, or `null` where it is not whole.
fn whole(parts: i128) -> Option<i64> {
    (parts % PARTS == 0).then_some((parts / PARTS) as i64)
}

/// Minor units in words, such as `€49.00`.
pub(super) fn money(minor: i64, currency: usize) -> String {
    let Currency { coin, exponent, .. } = CURRENCIES[currency];
    match exponent {
        0 => format!("{coin}{minor}"),
        _ => format!("{coin}{}.{:02}", minor / 100, minor % 100),
    }
}

type Terms<'a> = (usize, &'a &'static str, Interval, u32, Rate);

fn price(
    version: ApiVersion,
    created: i64,
    id: Id,
    product: &Product,
    (currency, code, interval, count, rate): Terms<'_>,
) -> Price {
    let unit = match &rate {
        Rate::PerUnit(unit) | Rate::Package { unit, .. } | Rate::Metered(unit) => Some(*unit),
        Rate::Graduated(_) | Rate::Volume(_) => None,
    };
    let (scheme, mode) = match &rate {
        Rate::Graduated(_) => ("tiered", Some(Text("graduated"))),
        Rate::Volume(_) => ("tiered", Some(Text("volume"))),
        _ => ("per_unit", None),
    };
    let usage = if matches!(rate, Rate::Metered(_)) { "metered" } else { "licensed" };
    let transform = match &rate {
        Rate::Package { size, .. } => format!(r#"{{"divide_by":{size},"round":"up"}}"#),
        _ => "null".to_owned(),
    };
    let aggregate = match (version, &rate) {
        (ApiVersion::Basil, _) => "",
        (_, Rate::Metered(_)) => r#""aggregate_usage":"sum","#,
        _ => r#""aggregate_usage":null,"#,
    };
    let text = unit.map(decimal);
    let amount = (unit.and_then(whole), text.as_deref().map(Text));
    let money_code = CURRENCIES[currency].code;
    let begin = |out: &mut Vec<u8>| {
        put!(out;
            r#"{"id":"#, id, r#","object":"price","active":true,"billing_scheme":"#, Text(scheme), r#","created":"#,
            created, r#","currency":"#, Text(money_code), r#","custom_unit_amount":null,"livemode":true,"#,
            r#""lookup_key":"#, Text(&format!("{code}_{money_code}")), r#","metadata":{},"nickname":"#, Text(code),
            r#","product":"#, product.id, r#","recurring":{"#, aggregate, r#""interval":"#, Text(interval.as_str()),
            r#","interval_count":"#, count, r#","meter":null,"trial_period_days":null,"usage_type":"#, Text(usage),
            r#"},"tax_behavior":"exclusive","#,
        );
    };
    let end = |out: &mut Vec<u8>| {
        put!(out;
            r#""tiers_mode":"#, mode, r#","transform_quantity":"#, transform.as_str(),
            r#","type":"recurring","unit_amount":"#, amount.0, r#","unit_amount_decimal":"#, amount.1, "}",
        );
    };
    let mut body = Vec::new();
    begin(&mut body);
    end(&mut body);
    let mut full = Vec::new();
    begin(&mut full);
    if let Rate::Graduated(tiers) | Rate::Volume(tiers) = &rate {
        put!(&mut full; r#""tiers":["#);
        for (at, tier) in tiers.iter().enumerate() {
            let (flat, unit) = (decimal(tier.flat), decimal(tier.unit));
            put!(&mut full;
                if at == 0 { "" } else { "," }, r#"{"flat_amount":"#, whole(tier.flat),
                r#","flat_amount_decimal":"#, Text(&flat), r#","unit_amount":"#, whole(tier.unit),
                r#","unit_amount_decimal":"#, Text(&unit), r#","up_to":"#, tier.up_to, "}",
            );
        }
        put!(&mut full; "],");
    }
    end(&mut full);
    let mut plan = Vec::new();
    put!(&mut plan;
        r#"{"id":"#, id, r#","object":"plan","active":true,"#, aggregate, r#""amount":"#, amount.0,
        r#","amount_decimal":"#, amount.1, r#","billing_scheme":"#, Text(scheme), r#","created":"#, created,
        r#","currency":"#, Text(money_code), r#","interval":"#, Text(interval.as_str()), r#","interval_count":"#,
        count, r#","livemode":true,"metadata":{},"meter":null,"nickname":"#, Text(code), r#","product":"#,
        product.id, r#","tiers_mode":"#, mode, r#","transform_usage":"#, transform.as_str(),
        r#","trial_period_days":null,"usage_type":"#, Text(usage), "}",
    );
    let every = match count {
        1 => interval.as_str().to_owned(),
        _ => format!("{count} {}s", interval.as_str()),
    };
    let label = match unit.and_then(whole) {
        Some(minor) => format!("{} (at {} / {every})", product.name, money(minor, currency)),
        None => format!("{} (per {every})", product.name),
    };
    Price { id, product: 0, code, interval, count, rate, decimal: text, label, body, plan, full }
}

fn coupon(id: &str, name: &str, off: Off, duration: Duration, created: i64) -> Coupon {
    let (percent, amount, currency) = match off {
        Off::Percent(of) => (Some(decimal(of * PARTS * 100 / WHOLE)), None, None),
        Off::Amount(minor, currency) => (None, Some(minor), Some(Text(CURRENCIES[currency].code))),
    };
    let (word, months) = match duration {
        Duration::Forever => ("forever", None),
        Duration::Months(months) => ("repeating", Some(months)),
        Duration::Once => ("once", None),
    };
    let mut body = Vec::new();
    put!(&mut body;
        r#"{"id":"#, Text(id), r#","object":"coupon","amount_off":"#, amount, r#","created":"#, created,
        r#","currency":"#, currency, r#","duration":"#, Text(word), r#","duration_in_months":"#, months,
        r#","livemode":true,"max_redemptions":null,"metadata":{},"name":"#, Text(name), r#","percent_off":"#,
        percent.as_deref(), r#","redeem_by":null,"times_redeemed":0,"valid":true}"#,
    );
    Coupon { off, duration, body }
}
