module everwarm/relay

go 1.23
