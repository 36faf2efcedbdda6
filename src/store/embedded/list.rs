//! Pages of lists.

use rusqlite::{Connection, ToSql, params_from_iter};
use time::OffsetDateTime;

use super::{Page, StoreError, rows, sharing};
use crate::domain::{
    CertificateValidity, KeyPair, Labels, ListFilter, ListOrder, ListQuery, OrderField, PageToken,
};

/// Reads one page, one row more than fits to learn whether there is another, and the total, which
/// is not exact where it is not needed. A page ends at a number of key pairs or of bytes.
pub(super) fn page(
    db: &Connection,
    query: &ListQuery,
    now: OffsetDateTime,
) -> Result<Page, StoreError> {
    // One view of the database for page and total.
    let view = db.unchecked_transaction()?;
    let label = rarest_label(&view, &query.filter.labels)?;
    let total = match (query.with_total, &label) {
        (true, _) => total(&view, &query.filter, now)?,
        // It still tells how much is found by an index, which a text has none of.
        (false, None) => {
            let without_text = ListFilter {
                text: None,
                ..query.filter.clone()
            };
            total(&view, &without_text, now)?
        }
        (false, Some(label)) => label.key_pairs,
    };
    // The key pairs with a label are in the order of their making, and few can be sorted.
    let by_label = label.as_ref().filter(|label| {
        query.order.field == OrderField::CreateTime || label.key_pairs <= SORTED_MAX
    });
    let mut conditions = Conditions::of(&query.filter, by_label, now);
    if total > SORTED_MAX {
        conditions.leave_the_index_to_others();
    }

    let sql = page_sql(query, &mut conditions);
    let mut statement = view.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(&conditions.values))?;
    let mut key_pairs: Vec<KeyPair> = Vec::new();
    let (mut last_sequence, mut bytes) = (0, 0);
    let mut more = false;
    while let Some(row) = rows.next()? {
        if key_pairs.len() == usize::from(query.page_size.get()) {
            more = true;
            break;
        }
        let pair = rows::key_pair(&view, row)?;
        bytes += pair.size_estimate();
        if bytes > query.page_size.bytes_max() && !key_pairs.is_empty() {
            more = true;
            break;
        }
        last_sequence = row.get(0)?;
        key_pairs.push(pair);
    }
    let next = key_pairs.last().filter(|_| more).map(|last| PageToken {
        sequence: last_sequence,
        value: match query.order.field {
            OrderField::CreateTime => String::new(),
            OrderField::Id => last.id.to_string(),
            OrderField::Expires => last.current.validity.not_after.unix_timestamp().to_string(),
            OrderField::SubjectDn => last.current.subject_dn.clone(),
        },
    });
    let sharers = match query.with_sharers {
        true => sharing::others_of_all(&view, &key_pairs)?,
        false => Vec::new(),
    };
    Ok(Page {
        key_pairs,
        next,
        total,
        sharers,
    })
}

/// Writes the query of a page, and adds the condition where it begins.
fn page_sql(query: &ListQuery, conditions: &mut Conditions) -> String {
    let order = Order::of(query.order, conditions.by_label);
    if let Some(after) = &query.after {
        order.begin_after(after, conditions);
    }
    format!(
        "{}{} ORDER BY {} LIMIT {} OFFSET {}",
        rows::select_key_pair_from(conditions.from()),
        conditions.clause(),
        order.clause(),
        u32::from(query.page_size.get()) + 1,
        query.skip,
    )
}

/// The columns that an order goes by: together unique, and with an index for each.
struct Order {
    columns: &'static [&'static str],
    field: OrderField,
    descending: bool,
}

impl Order {
    const fn of(order: ListOrder, by_label: bool) -> Self {
        Self {
            columns: match order.field {
                OrderField::CreateTime if by_label => &["labels.key_pair"],
                OrderField::CreateTime => &["key_pairs.sequence"],
                OrderField::Id => &["key_pairs.id"],
                OrderField::Expires => &["key_pairs.not_after", "key_pairs.sequence"],
                OrderField::SubjectDn => &["key_pairs.subject_dn", "key_pairs.sequence"],
            },
            field: order.field,
            descending: order.descending,
        }
    }

    fn clause(&self) -> String {
        let direction = if self.descending { " DESC" } else { " ASC" };
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|column| format!("{column}{direction}"))
            .collect();
        columns.join(", ")
    }

    /// Adds the condition that a key pair comes after the place of a token.
    fn begin_after(&self, token: &PageToken, conditions: &mut Conditions) {
        let sequence = Value::Integer(token.sequence);
        let values = match self.field {
            OrderField::CreateTime => vec![sequence],
            OrderField::Id => vec![Value::Text(token.value.clone())],
            OrderField::Expires => {
                vec![
                    Value::Integer(token.value.parse().unwrap_or_default()),
                    sequence,
                ]
            }
            OrderField::SubjectDn => vec![Value::Text(token.value.clone()), sequence],
        };
        let beyond = if self.descending { "<" } else { ">" };
        let marks = vec!["?"; values.len()].join(", ");
        let columns = self.columns.join(", ");
        conditions.add(format!("({columns}) {beyond} ({marks})"), values);
    }
}

/// Counts what meets the conditions: from the counters, where these suffice.
fn total(db: &Connection, filter: &ListFilter, now: OffsetDateTime) -> Result<u64, StoreError> {
    let of_status = |status| ListFilter {
        status,
        ..filter.clone()
    };
    if filter.status == Some(CertificateValidity::Valid) {
        // Most are: it is faster to count those that are not.
        let expired = total(db, &of_status(Some(CertificateValidity::Expired)), now)?;
        let not_yet = total(db, &of_status(Some(CertificateValidity::NotYetValid)), now)?;
        return Ok(total(db, &of_status(None), now)?.saturating_sub(expired + not_yet));
    }
    let label = rarest_label(db, &filter.labels)?;
    let conditions = Conditions::of(filter, label.as_ref(), now);
    let counted = ListFilter {
        provider: filter.provider,
        algorithm: filter.algorithm,
        ..ListFilter::default()
    };
    let sql = if *filter == counted {
        let clause = conditions.clause().replace("key_pairs.", "counts.");
        format!("SELECT coalesce(sum(counts.key_pairs), 0) FROM counts{clause}")
    } else {
        let (from, clause) = (conditions.from(), conditions.clause());
        format!("SELECT count(*) FROM {from}{clause}")
    };
    let total: i64 = db
        .prepare_cached(&sql)?
        .query_row(params_from_iter(&conditions.values), |row| row.get(0))?;
    Ok(u64::try_from(total).unwrap_or_default())
}

/// A label of a filter.
struct Label<'a> {
    key: &'a str,
    value: &'a str,
    /// How many key pairs have it, or one more than [`SORTED_MAX`].
    key_pairs: u64,
}

/// Returns the label of a filter that the fewest key pairs have, by which the list is found.
fn rarest_label<'a>(db: &Connection, labels: &'a Labels) -> Result<Option<Label<'a>>, StoreError> {
    let mut rarest: Option<Label<'a>> = None;
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM labels WHERE key = ? AND value = ? LIMIT {})",
        SORTED_MAX + 1
    );
    for (key, value) in labels.as_map() {
        let count: i64 = db
            .prepare_cached(&sql)?
            .query_row([key, value], |row| row.get(0))?;
        let key_pairs = u64::try_from(count).unwrap_or_default();
        if rarest
            .as_ref()
            .is_none_or(|rarest| key_pairs < rarest.key_pairs)
        {
            rarest = Some(Label {
                key,
                value,
                key_pairs,
            });
        }
    }
    Ok(rarest)
}

/// The conditions of a query and the values for their placeholders.
#[derive(Default)]
pub(super) struct Conditions {
    clauses: Vec<String>,
    values: Vec<Value>,
    /// Whether the query goes through the key pairs with a label, and not through all.
    by_label: bool,
}

impl Conditions {
    /// Writes the conditions of a filter, for a query that goes through all key pairs.
    pub(super) fn of_all(filter: &ListFilter, now: OffsetDateTime) -> Self {
        Self::of(filter, None, now)
    }

    /// Writes the conditions of a filter, for a query that goes through the key pairs with one of
    /// its labels, or through all.
    fn of(filter: &ListFilter, by_label: Option<&Label<'_>>, now: OffsetDateTime) -> Self {
        let mut conditions = Self::default();
        let text = |text: &str| Value::Text(text.to_owned());
        if let Some(label) = by_label {
            conditions.by_label = true;
            let values = [text(label.key), text(label.value)];
            conditions.add("labels.key = ? AND labels.value = ?", values);
        }
        if let Some(provider) = filter.provider {
            let number = Value::Integer(rows::provider_number(provider));
            conditions.add("key_pairs.provider = ?", [number]);
        }
        if let Some(algorithm) = filter.algorithm {
            let number = Value::Integer(rows::algorithm_number(algorithm));
            conditions.add("key_pairs.key_algorithm = ?", [number]);
        }
        if filter.status.is_some() || filter.expires_before.is_some() {
            // A span of time usually leaves fewer key pairs than a provider or an algorithm.
            conditions.leave_the_index_to_others();
        }
        let second = Value::Integer(now.unix_timestamp());
        match filter.status {
            None => {}
            Some(CertificateValidity::Valid) => conditions.add(
                "key_pairs.not_after >= ? AND key_pairs.not_before <= ?",
                [second.clone(), second],
            ),
            Some(CertificateValidity::Expired) => {
                conditions.add("key_pairs.not_after < ?", [second]);
            }
            Some(CertificateValidity::NotYetValid) => {
                conditions.add("key_pairs.not_before > ?", [second]);
            }
            Some(CertificateValidity::Revoked) => conditions.add("0", []),
        }
        if let Some(before) = filter.expires_before {
            conditions.add(
                "key_pairs.not_after < ?",
                [Value::Integer(before.unix_timestamp())],
            );
        }
        if let Some(text) = &filter.text {
            let pattern = Value::Text(format!("%{}%", escape_like(text)));
            conditions.add(
                r"(key_pairs.id LIKE ? ESCAPE '\' OR key_pairs.subject_dn LIKE ? ESCAPE '\')",
                [pattern.clone(), pattern],
            );
        }
        for (key, value) in filter.labels.as_map() {
            if by_label.is_none_or(|label| label.key != key) {
                conditions.add(HAS_LABEL, [text(key), text(value)]);
            }
        }
        if conditions.by_label {
            conditions.leave_the_index_to_others();
        }
        conditions
    }

    /// Returns what the query goes through.
    const fn from(&self) -> &'static str {
        match self.by_label {
            true => "labels CROSS JOIN key_pairs ON key_pairs.sequence = labels.key_pair",
            false => "key_pairs",
        }
    }

    fn add(&mut self, clause: impl Into<String>, values: impl IntoIterator<Item = Value>) {
        self.clauses.push(clause.into());
        self.values.extend(values);
    }

    /// Keeps SQLite from going by an index of the conditions so far, so that it goes by that of the order or of
    /// later conditions: a unary plus makes a column an expression, which no index knows.
    pub(super) fn leave_the_index_to_others(&mut self) {
        for clause in &mut self.clauses {
            if !clause.contains('+') {
                *clause = clause.replace("key_pairs.", "+key_pairs.");
            }
        }
    }

    /// Returns the conditions joined by `AND`. Empty when there are none.
    pub(super) fn joined(&self) -> String {
        self.clauses.join(" AND ")
    }

    /// Returns the values of the placeholders, in the order of the conditions.
    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    fn clause(&self) -> String {
        if self.clauses.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", self.joined())
        }
    }
}

/// The value of a placeholder.
#[derive(Clone)]
pub(super) enum Value {
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Self::Integer(number) => number.to_sql(),
            Self::Text(text) => text.to_sql(),
        }
    }
}

/// The condition that a key pair has a label.
const HAS_LABEL: &str = "EXISTS (SELECT 1 FROM labels
    WHERE key = ? AND value = ? AND key_pair = +key_pairs.sequence)";
/// How many key pairs may be found by an index and then sorted. When more meet the conditions, it is faster to
/// go through them in the order asked for.
const SORTED_MAX: u64 = 2000;

/// Takes the special meaning from the characters of a LIKE pattern.
fn escape_like(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escape = matches!(character, '%' | '_' | '\\').then_some('\\');
            escape.into_iter().chain([character])
        })
        .collect()
}

/// Returns how SQLite goes about the second page of a list with many key pairs.
#[cfg(test)]
pub(super) fn plan(
    db: &Connection,
    filter: ListFilter,
    order: ListOrder,
) -> Result<String, StoreError> {
    let query = ListQuery {
        filter,
        order,
        page_size: crate::domain::PageSize::parse(0).map_err(|_| StoreError::Closed)?,
        after: Some(PageToken {
            sequence: 1,
            value: "1".to_owned(),
        }),
        skip: 0,
        with_total: true,
        with_sharers: false,
    };
    let label = rarest_label(db, &query.filter.labels)?.map(|label| Label {
        key_pairs: SORTED_MAX + 1,
        ..label
    });
    let by_label = label.filter(|_| order.field == OrderField::CreateTime);
    let now = OffsetDateTime::UNIX_EPOCH;
    let mut conditions = Conditions::of(&query.filter, by_label.as_ref(), now);
    conditions.leave_the_index_to_others();
    let sql = format!("EXPLAIN QUERY PLAN {}", page_sql(&query, &mut conditions));
    let mut statement = db.prepare(&sql)?;
    let steps = statement.query_map(params_from_iter(&conditions.values), |row| {
        row.get::<_, String>("detail")
    })?;
    Ok(steps.collect::<Result<Vec<_>, _>>()?.join("; "))
}
