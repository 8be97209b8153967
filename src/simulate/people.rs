//! Plausible personal data, so that redaction has something to do. All invented: names from common lists, telephone
//! numbers from ranges kept for fiction, mail at reserved example domains.

use rand::{Rng, rngs::StdRng};

use super::json::{Text, put};

const GIVEN: [&str; 32] = [
    "Ada",
    "Björn",
    "Chiara",
    "Daniel",
    "Elif",
    "Femi",
    "Grace",
    "Hiroshi",
    "Inés",
    "Jonas",
    "Keiko",
    "Liam",
    "Mei",
    "Noor",
    "Olga",
    "Priya",
    "Quentin",
    "Rosa",
    "Sven",
    "Tomás",
    "Uma",
    "Viktor",
    "Wanjiru",
    "Ximena",
    "Yusuf",
    "Zoë",
    "Amélie",
    "Bruno",
    "Clara",
    "Dmitri",
    "Emma",
    "François",
];
const FAMILY: [&str; 32] = [
    "Abe",
    "Bauer",
    "Carvalho",
    "Dubois",
    "Eriksen",
    "Fischer",
    "García",
    "Hoffmann",
    "Ito",
    "Jensen",
    "Kowalski",
    "Lambert",
    "Moreau",
    "Nakamura",
    "Okafor",
    "Patel",
    "Quinn",
    "Rossi",
    "Schneider",
    "Tanaka",
    "Usman",
    "Varga",
    "Weber",
    "Xu",
    "Yamada",
    "Zimmermann",
    "O'Brien",
    "MacLeod",
    "Smith",
    "Johnson",
    "Müller",
    "Nguyen",
];
const MAILBOX: [&str; 8] = ["billing", "accounts", "office", "ap", "finance", "hello", "team", "it"];
const TRADE: [&str; 12] = [
    "Analytics",
    "Robotics",
    "Foods",
    "Logistics",
    "Studio",
    "Labs",
    "Consulting",
    "Media",
    "Energy",
    "Health",
    "Textiles",
    "Software",
];
const STREETS: [&str; 12] = [
    "Market Street",
    "Hauptstraße",
    "Rue de la Paix",
    "High Street",
    "Sakura-dori",
    "Mission Street",
    "Calle Mayor",
    "Via Roma",
    "Park Avenue",
    "Station Road",
    "Linden Lane",
    "Harbour View",
];
/// City, state, postal code, country; four for each currency, in the catalogue's order.
const CITIES: [[&str; 4]; 16] = [
    ["San Francisco", "CA", "94103", "US"],
    ["Austin", "TX", "78701", "US"],
    ["New York", "NY", "10001", "US"],
    ["Toronto", "ON", "M5V 2T6", "CA"],
    ["Berlin", "BE", "10115", "DE"],
    ["Paris", "IDF", "75002", "FR"],
    ["Madrid", "MD", "28013", "ES"],
    ["Milano", "MI", "20121", "IT"],
    ["千代田区", "東京都", "100-0001", "JP"],
    ["大阪市", "大阪府", "530-0001", "JP"],
    ["札幌市", "北海道", "060-0001", "JP"],
    ["福岡市", "福岡県", "810-0001", "JP"],
    ["London", "Greater London", "EC1A 1BB", "GB"],
    ["Leeds", "West Yorkshire", "LS1 4AP", "GB"],
    ["Bristol", "Avon", "BS1 4DJ", "GB"],
    ["Glasgow", "Scotland", "G1 1XQ", "GB"],
];
const DIAL: [&str; 4] = ["+1555", "+49305550", "+81355500", "+4420794609"];

/// One customer's person and address.
#[derive(Clone, Copy)]
pub(super) struct Person {
    given: u8,
    family: u8,
    trade: u8,
    mailbox: u8,
    street: u8,
    city: u8,
    house: u32,
    phone: u32,
}

impl Person {
    pub(super) fn draw(rng: &mut StdRng, currency: usize) -> Self {
        let bits: u64 = rng.random();
        let byte = |at: u32, size: usize| ((bits >> (8 * at)) as u8) % size as u8;
        Self {
            given: byte(0, GIVEN.len()),
            family: byte(1, FAMILY.len()),
            trade: byte(2, TRADE.len()),
            mailbox: byte(3, MAILBOX.len()),
            street: byte(4, STREETS.len()),
            city: currency as u8 * 4 + byte(5, 4),
            house: rng.random_range(1..900),
            phone: rng.random_range(1_000_000..9_999_999),
        }
    }

    /// The same person at another address.
    pub(super) fn moved(self, rng: &mut StdRng) -> Self {
        Self { street: (self.street + 1) % STREETS.len() as u8, house: rng.random_range(1..900), ..self }
    }

    /// The same person with another mailbox.
    pub(super) fn renamed(self) -> Self {
        Self { mailbox: (self.mailbox + 1) % MAILBOX.len() as u8, ..self }
    }

    pub(super) fn country(self) -> &'static str {
        CITIES[usize::from(self.city)][3]
    }

    /// The name, quoted.
    pub(super) fn put_name(self, out: &mut Vec<u8>) {
        put!(out; "\"", GIVEN[usize::from(self.given)], " ", FAMILY[usize::from(self.family)], "\"");
    }

    /// The firm, quoted.
    pub(super) fn put_firm(self, out: &mut Vec<u8>) {
        put!(out; "\"", FAMILY[usize::from(self.family)], " ", TRADE[usize::from(self.trade)], " Ltd\"");
    }

    /// The mail address, quoted.
    pub(super) fn put_email(self, out: &mut Vec<u8>) {
        put!(out;
            "\"", MAILBOX[usize::from(self.mailbox)], ".", self.phone, "@",
            ["example.com", "example.org", "example.net"][usize::from(self.trade) % 3], "\"",
        );
    }

    /// The telephone number, quoted.
    pub(super) fn put_phone(self, out: &mut Vec<u8>) {
        put!(out; "\"", DIAL[usize::from(self.city) / 4], self.phone, "\"");
    }

    /// The address object.
    pub(super) fn put_address(self, out: &mut Vec<u8>) {
        let [city, state, postal_code, country] = CITIES[usize::from(self.city)];
        put!(out;
            r#"{"city":"#, Text(city), r#","country":"#, Text(country), r#","line1":""#, self.house, " ",
            STREETS[usize::from(self.street)], r#"","line2":null,"postal_code":"#, Text(postal_code),
            r#","state":"#, Text(state), "}",
        );
    }
}
