-- The users of Cherrycake's documentation, as its engine wrote them to MariaDB.
CREATE TABLE `users` (
  `id` int(9) unsigned NOT NULL DEFAULT 0,
  `name` varchar(255) DEFAULT NULL,
  `email` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL,
  `passwordHash` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=latin1 COLLATE=latin1_swedish_ci;

INSERT INTO `users` VALUES
(1,'Douglas Engelbart','doug@berkeley.edu','sha512:100000:+IWHhrngEBLl0BMu+19sZZLFBKnT99O1:Pm7SsGpfs/2Oghd4vrKPhOrzqR7lbYAW'),
(2,'John Horton Conway','johnny@princeton.org','sha512:100000:VXJhDy/XW/sarOJZXpAt6Gk5GIKP/Wmv:jcKVOHjJwH5MTyTKvITzhI+L/5YAShaa'),
(3,'Frank Abagnale','frank.abagnale@united.com','sha512:100000:dkzRTBp/el2mFpnZcYqp/J3A1GpQu2Ni:/7r9u96lWW4F9LXfNDxfKoxarlyUvtXQ'),
(4,'Carl Sagan','carl@cosmos.org','sha512:100000:bnZnpmVgTD8Asd9x+JJxAHPlfcsCb4Fy:P4TzQV+/dtN+e/GlUZXAkXtrZ9esZy1Z'),
(5,'Richard Feynmann','ricky@mit.edu','sha512:100000:a2+OoczrhLgcGnuSUZDvi2axzY8MF08q:fnhKL87OZfnG+ZtwSjWuK9T2sYba48sq');
