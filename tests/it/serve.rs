//! The PostgreSQL door, tried with the real `psql`.
//!
//! Where `psql` is not installed each test says so and passes.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int8Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use datafusion::datasource::MemTable;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tributary::serve::{
    Catalog, Error, LiveTable, Secret, UserTable,
    postgres::{self, Handle, Options},
    view::{DELETE, OP_COLUMN, PUT},
    views::View,
};

use crate::{PATIENCE, needs};

const PASSWORD: &str = "correct horse";

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("account", DataType::Utf8, false),
        Field::new("livemode", DataType::Boolean, false),
        Field::new("day", DataType::Date32, false),
        Field::new("currency", DataType::Utf8, false),
        Field::new("closing", DataType::Decimal128(28, 6), true),
        Field::new("customers", DataType::Int64, true),
        Field::new("updated_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]))
}

/// (live, day number, closing in millionths, customers)
type Day = (bool, i32, Option<i128>, i64);

fn days(days: &[Day]) -> RecordBatch {
    let closing: Decimal128Array = days.iter().map(|day| day.2).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(days.iter().map(|_| Some("acct_1")).collect::<StringArray>()),
        Arc::new(days.iter().map(|day| Some(day.0)).collect::<BooleanArray>()),
        Arc::new(days.iter().map(|day| Some(day.1)).collect::<Date32Array>()),
        Arc::new(days.iter().map(|_| Some("usd")).collect::<StringArray>()),
        Arc::new(closing.with_precision_and_scale(28, 6).unwrap()),
        Arc::new(days.iter().map(|day| Some(day.3)).collect::<Int64Array>()),
        Arc::new(
            days.iter()
                .map(|day| day.2.map(|_| i64::from(day.1) * 86_400_000_000 + 500_000))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn with_op(rows: RecordBatch, op: i8) -> RecordBatch {
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(OP_COLUMN, DataType::Int8, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int8Array::from(vec![op; rows.num_rows()])));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

struct Server {
    handle: Handle,
    table: Arc<LiveTable>,
}

impl Server {
    async fn start(change: impl FnOnce(&mut Options)) -> Self {
        // 2024-03-01 and the next day, live; one day of test mode.
        let rows = days(&[(true, 19_783, Some(12_500_000), 3), (true, 19_784, None, 4), (false, 19_783, Some(1), 900)]);
        let committed = MemTable::try_new(schema(), vec![vec![rows]]).unwrap();
        let key = ["account", "livemode", "day", "currency"].map(String::from).to_vec();
        let table = Arc::new(LiveTable::new(schema(), key, Arc::new(committed)).unwrap());
        let mut shown = UserTable::new("mrr_daily", Arc::clone(&table) as _);
        shown.comment = Some("MRR of each day".into());
        shown.column_comments = vec![("closing".into(), "MRR at the end of the day".into())];
        let catalog = Arc::new(Catalog::new(vec![shown], Vec::new()).await.unwrap());
        let mut options = Options::new("127.0.0.1:0".parse().unwrap(), "analyst", Secret::new(PASSWORD), [9; 16]);
        change(&mut options);
        Self { handle: postgres::start(options, catalog).await.unwrap(), table }
    }

    fn address(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// Runs statements one after the other; errors do not stop it and are printed with their SQLSTATE.
    async fn psql(&self, statements: &[&str]) -> Printed {
        let mut command = client(self.address(), "analyst", Some(PASSWORD));
        for statement in statements {
            command.args(["-c", statement]);
        }
        Printed::of(output(command).await)
    }
}

fn client(address: SocketAddr, user: &str, password: Option<&str>) -> Command {
    let mut command = Command::new("psql");
    command
        .args(["-X", "-A", "-t", "-w", "-v", "VERBOSITY=verbose", "-d", "tributary", "-U", user])
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
        .env("PGPASSFILE", "/dev/null")
        .env("PGCONNECT_TIMEOUT", "10")
        .env_remove("PGPASSWORD")
        .stdin(Stdio::null());
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[derive(Debug)]
struct Printed {
    out: String,
    err: String,
}

impl Printed {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        Self { out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn lines(&self) -> Vec<&str> {
        assert_eq!(self.err, "", "no error expected");
        self.out.lines().collect()
    }

    #[track_caller]
    fn assert_refused(&self, sqlstate: &str) {
        assert!(self.err.contains(sqlstate), "{sqlstate} expected: {self:?}");
        assert_eq!(self.out, "", "no answer expected");
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_user_with_the_right_password_gets_in() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|_| {}).await;
    let attempt = async |user: &str, password: Option<&str>| {
        let mut command = client(server.address(), user, password);
        command.args(["-c", "SELECT 1"]);
        Printed::of(output(command).await)
    };
    assert_eq!(attempt("analyst", Some(PASSWORD)).await.lines(), ["1"]);
    for (user, password) in [("analyst", "wrong"), ("analyst", ""), ("postgres", PASSWORD), ("postgres", "")] {
        let refused = attempt(user, Some(password)).await;
        assert!(refused.out.is_empty() && !refused.err.is_empty(), "{user} {refused:?}");
    }
    assert!(attempt("analyst", Some("wrong")).await.err.contains("Password authentication failed"));
    let without = attempt("analyst", None).await;
    assert!(without.err.contains("no password supplied"), "{without:?}");
    assert!(!format!("{:?}", server.handle).contains(PASSWORD));
}

/// A connection of our own, for what psql would never send.
struct Raw(TcpStream);

impl Raw {
    fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let parameters = b"user\0analyst\0database\0tributary\0\0";
        let mut startup = (8 + parameters.len() as i32).to_be_bytes().to_vec();
        startup.extend(196_608_i32.to_be_bytes());
        startup.extend(parameters);
        stream.write_all(&startup).unwrap();
        Self(stream)
    }

    /// Proves the password as RFC 5802 says.
    fn log_in(address: SocketAddr) -> Self {
        let hmac = |key: &[u8], text: &[u8]| -> Vec<u8> {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(text);
            mac.finalize().into_bytes().to_vec()
        };
        let mut raw = Self::open(address);
        raw.receive().unwrap();
        let first = "n=,r=clientnonce";
        let mut initial = b"SCRAM-SHA-256\0".to_vec();
        initial.extend((3 + first.len() as i32).to_be_bytes());
        initial.extend(format!("n,,{first}").as_bytes());
        raw.send(b'p', &initial);
        let challenge = raw.receive().unwrap().1[4..].to_owned();
        let value = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name)).unwrap();
        let mut salt = BASE64.decode(value("s=")).unwrap();
        salt.extend([0, 0, 0, 1]);
        let mut round = hmac(PASSWORD.as_bytes(), &salt);
        let mut salted = round.clone();
        for _ in 1..value("i=").parse::<usize>().unwrap() {
            round = hmac(PASSWORD.as_bytes(), &round);
            salted.iter_mut().zip(&round).for_each(|(sum, byte)| *sum ^= byte);
        }
        let last = format!("c=biws,r={}", value("r="));
        let key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha256::digest(&key), format!("{first},{challenge},{last}").as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(key, byte)| key ^ byte).collect();
        raw.send(b'p', format!("{last},p={}", BASE64.encode(proof)).as_bytes());
        let answers = raw.until_ready();
        assert!(answers.iter().all(|(kind, _)| *kind != b'E'), "{answers:?}");
        raw
    }

    /// What the server answers up to where it waits for the next command.
    fn until_ready(&mut self) -> Vec<(u8, String)> {
        let mut answers = Vec::new();
        while let Some((kind, text)) = self.receive() {
            if kind == b'Z' {
                return answers;
            }
            answers.push((kind, text));
        }
        panic!("hung up after {answers:?}");
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        let mut message = vec![kind];
        message.extend((4 + body.len() as i32).to_be_bytes());
        message.extend(body);
        // The server may have hung up already, which the next read shows.
        let _sent = self.0.write_all(&message);
    }

    /// The next message, or `None` when the server hung up.
    fn receive(&mut self) -> Option<(u8, String)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).ok()?;
        let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
        self.0.read_exact(&mut body).ok()?;
        Some((head[0], String::from_utf8_lossy(&body).into_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_login_cannot_be_followed_by_a_query() {
    let server = Server::start(|_| {}).await;
    for response in [&b"nonsense"[..], b"SCRAM-SHA-256\0\0\0\0\x03\xff\xfe\xfd", b"PLAIN\0\0\0\0\0"] {
        let mut raw = Raw::open(server.address());
        let (kind, mechanisms) = raw.receive().unwrap();
        assert_eq!(kind, b'R');
        assert!(mechanisms.contains("SCRAM-SHA-256"), "the password never travels in the clear");
        raw.send(b'p', response);
        raw.send(b'Q', b"SELECT 1\0");
        let answers: Vec<_> = std::iter::from_fn(|| raw.receive()).collect();
        assert!(answers.iter().all(|(kind, error)| *kind == b'E' && error.contains("FATAL")), "{answers:?}");
    }
    let mut raw = Raw::open(server.address());
    raw.receive().unwrap();
    raw.send(b'Q', b"SELECT 1\0");
    raw.send(b'p', b"");
    let answers: Vec<_> = std::iter::from_fn(|| raw.receive()).collect();
    assert!(answers.iter().all(|(kind, _)| *kind == b'E'), "{answers:?}");
    let mut raw = Raw::log_in(server.address());
    raw.send(b'Q', b"SELECT 1\0");
    assert!(raw.until_ready().iter().any(|(kind, _)| *kind == b'D'), "others are served as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_sees_the_rows_of_each_run_and_can_write_no_more_than_another() {
    let server = Server::start(|options| options.statement_timeout = Duration::from_millis(500)).await;
    let mut raw = Raw::log_in(server.address());
    raw.send(b'P', b"live\0SELECT sum(customers) FROM mrr_daily WHERE customers > $1\0\0\0");
    raw.send(b'S', b"");
    assert_eq!(raw.until_ready()[0].0, b'1', "parsed");
    let run = |raw: &mut Raw| -> String {
        // Bind with one text parameter, then execute to the end.
        raw.send(b'B', b"\0live\0\0\0\0\x01\0\0\0\x010\0\0");
        raw.send(b'E', b"\0\0\0\0\0");
        raw.send(b'S', b"");
        let answers = raw.until_ready();
        let (_, row) = answers.iter().find(|(kind, _)| *kind == b'D').unwrap_or_else(|| panic!("{answers:?}"));
        row[6..].to_owned()
    };
    assert_eq!(run(&mut raw), "7");
    server.table.put(&with_op(days(&[(true, 19_785, None, 100)]), PUT)).unwrap();
    assert_eq!(run(&mut raw), "107");
    for (refused, sqlstate) in [
        ("INSERT INTO mrr_daily (customers) VALUES (1)", "C25006"),
        ("DELETE FROM mrr_daily", "C25006"),
        ("SET datafusion.execution.batch_size = 1", "C25006"),
        ("SELECT nothing", "C42703"),
        ("DECLARE c CURSOR FOR SELECT 1", "C0A000"),
        (HEAVY, "C57014"),
    ] {
        raw.send(b'P', format!("\0{refused}\0\0\0").as_bytes());
        raw.send(b'B', b"\0\0\0\0\0\0\0\0");
        raw.send(b'E', b"\0\0\0\0\0");
        raw.send(b'S', b"");
        let answers = raw.until_ready();
        let error = answers.iter().find(|(kind, _)| *kind == b'E').map(|(_, text)| text.as_str()).unwrap_or_default();
        assert!(error.contains(sqlstate), "{refused}: {answers:?}");
    }
    assert_eq!(run(&mut raw), "107", "the session and its statement go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_columns_and_comments_are_listed() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|_| {}).await;
    assert_eq!(server.psql(&["\\dt"]).await.lines(), ["public|mrr_daily|table|postgres"]);
    let described = server.psql(&["\\d mrr_daily"]).await;
    let lines = described.lines();
    assert!(lines.iter().any(|line| line.starts_with("closing|numeric|")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("day|date|") && line.contains("not null")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("updated_at|timestamp with time zone|")), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("closing|")).count(), 1, "one schema's table alone");
    assert!(server.psql(&["\\l"]).await.lines().iter().any(|line| line.starts_with("tributary|")));
    let described = server.psql(&["\\d+ mrr_daily"]).await;
    let comment = described.lines().iter().any(|line| line.ends_with("|MRR at the end of the day"));
    assert!(comment, "{described:?}");
    assert!(server.psql(&["\\dt+"]).await.lines()[0].ends_with("|MRR of each day"));
    let comments = "SELECT obj_description(c.oid, 'pg_class'), col_description(c.oid, 5) FROM pg_catalog.pg_class c \
                    WHERE c.relname = 'mrr_daily' AND pg_catalog.pg_table_is_visible(c.oid)";
    assert_eq!(server.psql(&[comments]).await.lines(), ["MRR of each day|MRR at the end of the day"]);
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'test'";
    assert_eq!(server.psql(&[columns]).await.lines(), ["7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_arrive_exactly_and_modes_apart() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|_| {}).await;
    let printed =
        server.psql(&["SELECT day, livemode, closing, customers, updated_at FROM mrr_daily ORDER BY day"]).await;
    assert_eq!(printed.lines(), ["2024-03-01|t|12.500000|3|2024-03-01 00:00:00.500000+00", "2024-03-02|t||4|"]);
    assert_eq!(server.psql(&["SELECT sum(closing) FROM mrr_daily"]).await.lines(), ["12.500000"]);
    assert_eq!(server.psql(&["SELECT customers FROM test.mrr_daily"]).await.lines(), ["900"]);
    assert_eq!(server.psql(&["SELECT count(*) FROM mrr_daily WHERE NOT livemode"]).await.lines(), ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_the_last_moment_is_seen() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|_| {}).await;
    let now = "SELECT day, closing, customers FROM mrr_daily ORDER BY day";
    server.table.put(&with_op(days(&[(true, 19_785, Some(99_999_999_999_999_999_999_999), 5)]), PUT)).unwrap();
    let lines = server.psql(&[now]).await.out;
    assert_eq!(lines, "2024-03-01|12.500000|3\n2024-03-02||4\n2024-03-03|99999999999999999.999999|5");
    server.table.put(&with_op(days(&[(true, 19_784, Some(-1), 40)]), PUT)).unwrap();
    server.table.put(&with_op(days(&[(true, 19_783, None, 0)]), DELETE)).unwrap();
    let lines = server.psql(&[now]).await.out;
    assert_eq!(lines, "2024-03-02|-0.000001|40\n2024-03-03|99999999999999999.999999|5");
    assert_eq!(server.psql(&["SELECT customers FROM test.mrr_daily"]).await.lines(), ["900"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_written_created_or_configured() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|_| {}).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.csv").display().to_string();
    for statement in [
        "INSERT INTO mrr_daily (customers) VALUES (1)".to_owned(),
        "WITH x AS (SELECT 1) INSERT INTO mrr_daily (customers) SELECT * FROM x".to_owned(),
        "UPDATE mrr_daily SET customers = 0".to_owned(),
        "DELETE FROM mrr_daily".to_owned(),
        "TRUNCATE mrr_daily".to_owned(),
        "COPY mrr_daily TO STDOUT".to_owned(),
        format!("COPY (SELECT 1) TO '{file}'"),
        "CREATE TABLE x AS SELECT 1".to_owned(),
        "SELECT 1 AS a INTO x".to_owned(),
        "CREATE VIEW x AS SELECT 1".to_owned(),
        "CREATE SCHEMA x".to_owned(),
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "DROP TABLE mrr_daily".to_owned(),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "PREPARE x AS DELETE FROM mrr_daily".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO mrr_daily (customers) VALUES (1)".to_owned(),
        "DECLARE c CURSOR FOR INSERT INTO mrr_daily (customers) VALUES (1)".to_owned(),
    ] {
        let printed = server.psql(&[&statement]).await;
        assert!(!printed.err.is_empty() && printed.out.is_empty(), "{statement}: {printed:?}");
        // The last two are syntax errors to some parsers: refused either way.
        if !statement.starts_with("DECLARE") && !statement.starts_with("WITH") {
            printed.assert_refused("25006");
        }
    }
    assert!(!directory.path().join("out.csv").exists());
    for statement in ["SELECT * FROM '/etc/passwd'", "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM nothing"] {
        server.psql(&[statement]).await.assert_refused("42");
    }
    server.psql(&["SELECT nothing FROM mrr_daily"]).await.assert_refused("42703");
    server.psql(&["SELECT * FROM nothing"]).await.assert_refused("42P01");
    server.psql(&["SELEC 1"]).await.assert_refused("42601");
    assert_eq!(server.psql(&["SELECT count(*) FROM mrr_daily"]).await.lines(), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sets_what_is_its_own_and_nothing_that_would_mislead() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|_| {}).await;
    server.psql(&["SET search_path = test"]).await.assert_refused("22023");
    server.psql(&["SET TIME ZONE 'America/New_York'"]).await.assert_refused("22023");
    server.psql(&["SET default_transaction_read_only = off"]).await.assert_refused("22023");
    let warned = server.psql(&["SET geqo = off", "SHOW geqo"]).await;
    assert!(warned.err.contains("01000") && warned.err.contains("42704"), "{warned:?}");
    let session = ["SET statement_timeout = '2s'", "SHOW statement_timeout", "DISCARD ALL", "SHOW statement_timeout"];
    assert_eq!(server.psql(&session).await.lines(), ["SET", "2s", "DISCARD ALL", "0"]);
    let transaction = ["BEGIN", "SELECT 1", "COMMIT", "SHOW TIME ZONE", "SHOW server_version"];
    assert_eq!(server.psql(&transaction).await.lines(), ["BEGIN", "1", "COMMIT", "UTC", "16.6"]);
    let nested = ["BEGIN", "SAVEPOINT a", "ROLLBACK TO SAVEPOINT a", "SELECT 1", "COMMIT"];
    let expected = ["BEGIN", "SAVEPOINT", "ROLLBACK", "1", "COMMIT"];
    assert_eq!(server.psql(&nested).await.lines(), expected);
    let failed = ["BEGIN", "SELECT nothing", "ROLLBACK TO SAVEPOINT a", "ROLLBACK", "SELECT 1"];
    let printed = server.psql(&failed).await;
    assert!(printed.err.contains("0A000") && printed.out == "BEGIN\nROLLBACK\n1", "{printed:?}");
    assert!(server.psql(&["SELECT version()"]).await.lines()[0].starts_with("PostgreSQL 16.6"));
    let cursor =
        ["DECLARE c CURSOR FOR SELECT customers FROM mrr_daily ORDER BY 1", "FETCH 1 FROM c", "FETCH 5 FROM c"];
    assert_eq!(server.psql(&cursor).await.lines(), ["DECLARE CURSOR", "3", "4"]);
}

/// Takes minutes and little memory.
const HEAVY: &str = "SELECT sum(a.value * b.value % 7) FROM generate_series(1, 1000) a(value), \
                     generate_series(1, 1000000000) b(value)";

#[tokio::test(flavor = "multi_thread")]
async fn a_heavy_statement_ends_at_its_deadline_and_the_session_goes_on() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|options| options.statement_timeout = Duration::from_millis(300)).await;
    let printed = server.psql(&[HEAVY, "SELECT 2"]).await;
    assert!(printed.err.contains("57014") && printed.out == "2", "{printed:?}");
    // A client may ask for less, not for more.
    let printed = server.psql(&["SET statement_timeout = '1h'", HEAVY]).await;
    assert!(printed.err.contains("57014") && printed.err.contains("300 ms"), "{printed:?}");
    let printed = server.psql(&["SET statement_timeout = 50", HEAVY]).await;
    assert!(printed.err.contains("50 ms"), "{printed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_statement_can_be_cancelled() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|_| {}).await;
    let mut command = client(server.address(), "analyst", Some(PASSWORD));
    let mut psql: Child = command
        .args(["-c", "SELECT 'ready'", "-c", HEAVY])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 5];
    psql.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    // An interrupt between two statements cancels nothing, so it is repeated until psql has given up.
    let number = psql.id().to_string();
    let deadline = Instant::now() + PATIENCE;
    while psql.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the statement was not cancelled");
        let mut interrupt = Command::new("kill");
        interrupt.args(["-INT", &number]);
        output(interrupt).await;
    }
    let printed = Printed::of(psql.wait_with_output().unwrap());
    assert!(printed.err.contains("57014"), "{printed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so_and_gets_in_when_another_leaves() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|options| options.max_connections = 1).await;
    let mut first = Raw::open(server.address());
    assert_eq!(first.receive().unwrap().0, b'R', "it has the only place");
    let (kind, error) = Raw::open(server.address()).receive().unwrap();
    assert!(kind == b'E' && error.contains("C53300"), "{error}");
    let refused = server.psql(&["SELECT 1"]).await;
    assert!(refused.err.contains("too many connections"), "{refused:?}");
    drop(first);
    until("a place", async || server.psql(&["SELECT 1"]).await.out == "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_too_many_rows_is_an_error_and_not_a_part_of_it() {
    if !needs::psql() {
        return;
    }
    let server = Server::start(|options| options.row_limit = 10).await;
    server.psql(&["SELECT value FROM generate_series(1, 11)"]).await.assert_refused("54000");
    assert_eq!(server.psql(&["SELECT value FROM generate_series(1, 10)"]).await.lines().len(), 10);
    let cursor =
        server.psql(&["DECLARE c CURSOR FOR SELECT value FROM generate_series(1, 99)", "FETCH ALL FROM c"]).await;
    assert!(cursor.err.contains("54000"), "{cursor:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_idle_sessions_lets_statements_finish_and_closes_the_door() {
    let server = Server::start(|_| {}).await;
    let address = server.address();
    let mut idle = Raw::log_in(address);
    let mut busy = Raw::log_in(address);
    // More than fits into the buffers between us, so it runs until we have read it.
    busy.send(b'Q', b"SELECT value FROM generate_series(1, 1000000)\0");
    assert_eq!(busy.receive().unwrap().0, b'T');
    let stopping = tokio::spawn(server.handle.shutdown());
    let (kind, goodbye) = idle.receive().unwrap();
    assert!(kind == b'E' && goodbye.contains("C57P01"), "{goodbye}");
    let rows = busy.until_ready();
    assert_eq!(rows.iter().filter(|(kind, _)| *kind == b'D').count(), 1_000_000);
    let (kind, goodbye) = busy.receive().unwrap();
    assert!(kind == b'E' && goodbye.contains("C57P01"), "{goodbye}");
    stopping.await.unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn without_tls_the_door_opens_on_loopback_alone() {
    let catalog = Arc::new(Catalog::new(Vec::new(), Vec::new()).await.unwrap());
    let options = |listen: &str| Options::new(listen.parse().unwrap(), "analyst", Secret::new(PASSWORD), [9; 16]);
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = postgres::start(options(listen), Arc::clone(&catalog)).await;
        assert!(matches!(refused, Err(Error::ListenWithoutTls(_))), "{listen}");
    }
    let mut empty = options("127.0.0.1:0");
    empty.password = Secret::new("");
    assert!(matches!(postgres::start(empty, catalog).await, Err(Error::EmptyPassword)));
}

#[tokio::test]
async fn the_query_command_plans_queries_only() {
    let rows = MemTable::try_new(schema(), vec![vec![days(&[(true, 0, Some(1), 1), (false, 0, Some(1), 1)])]]).unwrap();
    let table = UserTable::new("mrr_daily", Arc::new(rows));
    let catalog = Catalog::new(vec![table], Vec::new()).await.unwrap();
    assert_eq!(catalog.sql("SELECT * FROM mrr_daily").await.unwrap().count().await.unwrap(), 1);
    for statement in ["DROP TABLE mrr_daily", "SET datafusion.execution.batch_size = 1", "CREATE TABLE x AS SELECT 1"] {
        assert!(matches!(catalog.sql(statement).await, Err(Error::NotReadOnly(_))), "{statement}");
    }
    assert!(catalog.sql("SELECT 1; SELECT 2").await.is_err());
    let without_mode = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
    let table = UserTable::new("t", Arc::new(MemTable::try_new(without_mode, vec![vec![]]).unwrap()));
    assert!(matches!(Catalog::new(vec![table], Vec::new()).await, Err(Error::Shape(_))));
}

#[tokio::test]
async fn a_view_reads_the_mode_of_its_schema_and_is_left_out_without_its_tables() {
    let rows =
        MemTable::try_new(schema(), vec![vec![days(&[(true, 0, Some(2_000_000), 1), (false, 0, Some(5_000_000), 1)])]]);
    let table = UserTable::new("mrr_daily", Arc::new(rows.unwrap()));
    let settings = BTreeMap::from([("a.setting".to_owned(), "usd".to_owned())]);
    let view = |name: &str, sql: &str| {
        let metadata = format!(
            "/*---\nname: {name}\ndescription: d\nparameters: {{ wanted: a.setting }}\ncolumns: {{ total: c }}\n---*/\n"
        );
        View::parse(&(metadata + sql), &settings).unwrap().unwrap()
    };
    let views = [
        view(
            "total",
            "WITH t AS (SELECT closing FROM mrr_daily WHERE currency = $wanted) SELECT sum(closing) AS total FROM t",
        ),
        view("twice", "SELECT 2 * total AS total FROM total"),
        view("other", "SELECT count(*) AS total FROM no_such_table"),
    ];
    let catalog = Catalog::with_views(vec![table.clone()], Vec::new(), &views).await.unwrap();
    for (sql, answer) in [
        ("SELECT total FROM twice", "4.000000"),
        ("SELECT total FROM test.twice", "10.000000"),
        ("SELECT total FROM total", "2.000000"),
    ] {
        let batches = catalog.sql(sql).await.unwrap().collect().await.unwrap();
        let shown = arrow::util::display::array_value_to_string(batches[0].column(0), 0).unwrap();
        assert_eq!(shown, answer, "{sql}");
    }
    assert!(catalog.sql("SELECT * FROM other").await.is_err());
    let listed =
        "SELECT table_type FROM information_schema.tables WHERE table_schema = 'public' AND table_name = 'twice'";
    let batches = catalog.sql(listed).await.unwrap().collect().await.unwrap();
    assert_eq!(arrow::util::display::array_value_to_string(batches[0].column(0), 0).unwrap(), "VIEW");
    // A view that says something else than its file describes is a defect.
    let wrong = view("wrong", "SELECT closing FROM mrr_daily");
    assert!(matches!(Catalog::with_views(vec![table], Vec::new(), &[wrong]).await, Err(Error::Shape(_))));
}
