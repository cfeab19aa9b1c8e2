package sqldb

import (
	"database/sql"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"github.com/crumb-go/crumb/internal/mysqlurl"
)

// openMySQL takes the URLs that the session store takes.
func openMySQL(raw string) (*DB, error) {
	cfg, maxConns, err := mysqlurl.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("mysql: %w", err)
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("mysql: %w", err)
	}
	return openServer(sql.OpenDB(connector), MySQL, maxConns)
}
